"""Turn weights into impacts on their device.

The numbers equal those of :class:`csplade.core.vectors.SparseBatch`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.vectors import MAX_QUERY_IMPACT, MAX_SCORE


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


def quantize_queries(weights: Tensor, max_impact: int) -> tuple[Tensor, Tensor]:
    """Return queries as impacts, each scaled by its own largest weight.

    The host does not wait for the device.

    Args:
        weights: float32 [n, K], padded with 0.
        max_impact: largest document impact of the index.

    Returns:
        impacts int32 [n, K], 0 where padded; scales float64 [n], weight of one impact step.
    """
    exact = weights.to(torch.float64)
    present = exact > 0
    largest = torch.nn.functional.pad(exact, (0, 1)).amax(1)
    largest = largest.where(largest > 0, 1.0)

    def impacts_of(levels: Tensor) -> tuple[Tensor, Tensor]:
        scales = largest / levels
        impacts = torch.round(exact / scales[:, None]).clamp(min=1)
        return impacts.where(present, 0).to(torch.int32), scales

    whole = (exact == torch.round(exact)).all(1) & (largest <= MAX_QUERY_IMPACT)
    levels = largest.where(whole, float(MAX_QUERY_IMPACT)).to(torch.int64)
    lengths, sums = present.sum(1), impacts_of(levels)[0].sum(1, dtype=torch.int64)
    budget = MAX_SCORE // max_impact
    fewer = (budget - lengths) * levels // (sums + lengths).clamp(min=1)
    return impacts_of(torch.where(sums > budget, fewer, levels))
