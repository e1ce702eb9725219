"""Describe the largest weights of rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# Weights kept of a row, and columns of a row.
MAX_K = 1024
MAX_V = 262_144


@dataclass(frozen=True)
class Top:
    """Hold the largest weights of n rows, K = min(k, V) entries each.

    Attributes:
        terms: int32 [n, K], by descending weight, ties by ascending term; padded with -1.
        weights: float32 [n, K], padded with 0.
        impacts: int32 [n, K], 1 to the maximum, padded with 0; all 0 where no scale was given.
        counts: int32 [n], entries that are not padding.
        positive: int32 [n], finite weights > 0 of the row; ``positive - counts`` were cut by k.
        clipped: int32 [n], entries whose impact was above the maximum and was reduced to it.
        nonfinite: int32 [n], weights of the row that are NaN or infinite; they are excluded.
    """

    terms: Tensor
    weights: Tensor
    impacts: Tensor
    counts: Tensor
    positive: Tensor
    clipped: Tensor
    nonfinite: Tensor
