"""Turn weights into impacts on their device.

The numbers equal those of :meth:`csplade.core.vectors.SparseBatch.quantize`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def quantize(weights: Tensor, scale: float, maximum: int) -> tuple[Tensor, Tensor]:
    """Return ``clip(rint(weight / scale), 1, maximum)`` where the weight is > 0, else 0.

    The host does not wait for the device.

    Args:
        weights: float32 [n, K], padded with 0.
        scale: weight of one impact step.
        maximum: greatest impact.

    Returns:
        impacts int32 [n, K]; int64 [n], how many of each row were reduced to ``maximum``.
    """
    # The divisor is a tensor: by a Python number torch multiplies with the reciprocal, which
    # rounds differently.
    step = torch.full((), scale, dtype=torch.float64, device=weights.device)
    exact = torch.round(weights.to(torch.float64) / step)
    impacts = exact.clamp(1, maximum).where(weights > 0, 0).to(torch.int32)
    return impacts, (exact > maximum).sum(1)
