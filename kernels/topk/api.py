"""Keep the largest weights of each row as a sparse vector, with their impacts in the same pass.

impact = clip(rint(weight / scale), 1, maximum), computed in float64, ties to even; values above
maximum are counted
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.vectors import MAX_QUERY_IMPACT
from ..runtime.launch import use_triton
from .reference import topk_reference
from .triton import topk_triton
from .types import MAX_K, MAX_V, Top


def topk(
    weights: Tensor, k: int, *, scale: float | None = None, maximum: int = MAX_QUERY_IMPACT
) -> Top:
    """Return the ``k`` largest positive weights of each row; ties go to the smaller term.

    Weights that are NaN or infinite are excluded and counted.

    Args:
        weights: float32 [B, V], V up to 262,144.
        k: 1 to 1,024.
        scale: weight of one impact step, > 0; None computes no impacts.
        maximum: greatest impact, 1 to 4,095.

    Raises:
        ValueError: an argument is out of range or has another dtype.
    """
    if weights.ndim != 2 or weights.dtype != torch.float32 or weights.shape[1] > MAX_V:
        raise ValueError(
            f"weights: {weights.dtype} {tuple(weights.shape)} must be float32 [B, V <= {MAX_V}]"
        )
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k: {k} is out of range; allowed 1 to {MAX_K}")
    if (scale is not None and not scale > 0) or not 1 <= maximum <= MAX_QUERY_IMPACT:
        raise ValueError(
            f"scale: {scale} and maximum: {maximum} must be > 0 and 1 to {MAX_QUERY_IMPACT}"
        )
    return (topk_triton if use_triton(weights) else topk_reference)(weights, k, scale, maximum)


def warm_up(terms: int, device: torch.device) -> None:
    """Compile every kernel that :func:`topk` can launch for rows of so many terms, if any."""
    weights = torch.zeros(1, terms, device=device)
    if not use_triton(weights):
        return
    k = 1
    while k <= min(terms, MAX_K):
        for scale in (None, 1.0):
            topk(weights, k, scale=scale)
        k *= 2
