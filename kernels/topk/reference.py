"""Keep the largest weights by sorting: the plain version that the kernels equal."""

from __future__ import annotations

import torch
from torch import Tensor

from ..impacts import quantize
from .types import Top


def topk_reference(weights: Tensor, k: int, scale: float | None = None, maximum: int = 1) -> Top:
    """Compute :func:`.api.topk` in plain torch, as the CPU does; arguments are checked already."""
    k = min(k, weights.shape[1])
    # For weights >= 0 the bit pattern of a float32 ascends with its value, so (bits, -term) in one
    # int64 sorts by weight and then by term, which torch.topk alone does not promise.
    positive = (weights > 0) & weights.isfinite()
    bits = torch.where(positive, weights, 0.0).view(torch.int32).to(torch.int64)
    terms = torch.arange(weights.shape[1], device=weights.device)
    keys = torch.topk(bits << 32 | (0xFFFFFFFF - terms), k, dim=1).values
    values = (keys >> 32).to(torch.int32).view(torch.float32)
    found = values > 0
    values = torch.where(found, values, 0.0)
    chosen = torch.where(found, 0xFFFFFFFF - (keys & 0xFFFFFFFF), -1).to(torch.int32)
    counts = found.sum(1, dtype=torch.int32)
    impacts, clipped = torch.zeros_like(chosen), torch.zeros_like(counts)
    if scale is not None:
        impacts, clipped = quantize(values, scale, maximum)
    return Top(
        chosen,
        values,
        impacts,
        counts,
        positive.sum(1, dtype=torch.int32),
        clipped.to(torch.int32),
        (~weights.isfinite()).sum(1, dtype=torch.int32),
    )
