"""topk: the largest weights of each row as a sparse vector, ties to the smaller term."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_K = 1024


def topk(weights: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pick each row's ``k`` largest positive weights.

    Args:
        weights: float32 [B, V], V up to 262,144.
        k: 1 to 1,024.

    Returns:
        terms int32 [B, K] and weights float32 [B, K] in descending weight, ties by ascending term, padded with -1 and 0;
        counts int32 [B] of the entries that are there. K = min(k, V).

    Raises:
        ValueError: ``k`` or the shape out of range, or another dtype.
    """
    if weights.ndim != 2 or weights.dtype != torch.float32 or weights.shape[1] > 262_144:
        raise ValueError(
            f"weights must be float32 [B, V <= 262144], is {weights.dtype} {tuple(weights.shape)}"
        )
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k is {k}, allowed 1 to {MAX_K}")
    k = min(k, weights.shape[1])
    # For weights >= 0 the bit pattern of a float32 ascends with its value, so (bits, -term) in one int64 sorts by
    # weight and then by term, which torch.topk alone does not promise.
    bits = weights.clamp(min=0).view(torch.int32).to(torch.int64)
    terms = torch.arange(weights.shape[1], device=weights.device)
    keys = torch.topk(bits << 32 | (0xFFFFFFFF - terms), k, dim=1).values
    values = (keys >> 32).to(torch.int32).view(torch.float32)
    found = values > 0
    chosen = torch.where(found, 0xFFFFFFFF - (keys & 0xFFFFFFFF), -1).to(torch.int32)
    return chosen, torch.where(found, values, 0.0), found.sum(1, dtype=torch.int32)
