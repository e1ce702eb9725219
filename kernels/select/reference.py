"""Rank by sorting: the plain versions of selecting in one block and merging blocks and shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from .types import check_k


@dataclass(frozen=True)
class Hits:
    """Hold ranked documents of n queries: by score descending, then ordinal, then shard.

    Attributes:
        indptr: int64 [n + 1], query i owns rows ``indptr[i]:indptr[i + 1]``.
        shards: int32 [h].
        ordinals: int64 [h], numbers in the shard.
        scores: int32 [h], all > 0.
    """

    indptr: NDArray[np.int64]
    shards: NDArray[np.int32]
    ordinals: NDArray[np.int64]
    scores: NDArray[np.int32]


def select(
    scores: NDArray[np.int32],
    k: int,
    *,
    mask: NDArray[np.uint8] | None = None,
    first_ordinal: int = 0,
    shard: int = 0,
) -> Hits:
    """Return the documents with score > 0 that rank among the first ``k`` of their query.

    Args:
        scores: int32 [n, documents] of one block.
        k: 1 to 10,000; more than there are matches gives the matches.
        mask: uint8 [documents], 0 for documents to exclude; None keeps all.
        first_ordinal: ordinal of the block's first document.
        shard: the block's shard.

    Raises:
        InputError: an argument breaks its rules.
    """
    check_k(k)
    if scores.ndim != 2 or scores.dtype != np.int32:
        raise InputError(
            f"scores: {scores.dtype} {list(scores.shape)} must be int32 [queries, documents]"
        )
    if mask is not None and (mask.dtype != np.uint8 or mask.shape != scores.shape[1:]):
        raise InputError(f"mask: {mask.dtype} {list(mask.shape)} must be uint8 [{scores.shape[1]}]")
    keep = scores > 0 if mask is None else (scores > 0) & (mask != 0)
    queries, ordinals = np.nonzero(keep)
    found = scores[queries, ordinals]
    every = Hits(
        np.searchsorted(queries, np.arange(len(scores) + 1)).astype(np.int64),
        np.full(len(found), shard, dtype=np.int32),
        ordinals + np.int64(first_ordinal),
        found,
    )
    return merge([every], k)


def merge(parts: Sequence[Hits], k: int) -> Hits:
    """Return the first ``k`` of each query over several parts: blocks, segments, shards.

    Args:
        parts: hits for the same n queries; their rows need not be in order.
        k: 1 to 10,000.

    Raises:
        InputError: no parts, parts for different queries, or ``k`` is out of range.
    """
    check_k(k)
    if len({len(part.indptr) for part in parts}) != 1:
        raise InputError(
            f"parts: must be for the same queries, got {[len(part.indptr) - 1 for part in parts]}"
        )
    count = len(parts[0].indptr) - 1
    queries = np.concatenate([np.repeat(np.arange(count), np.diff(part.indptr)) for part in parts])
    shards = np.concatenate([part.shards for part in parts])
    ordinals = np.concatenate([part.ordinals for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    order = np.lexsort((shards, ordinals, -scores.astype(np.int64), queries))
    starts = np.searchsorted(queries[order], np.arange(count + 1))
    rank = np.arange(len(order)) - starts[queries[order]]
    order = order[rank < k]
    indptr = np.concatenate([[0], np.cumsum(np.minimum(np.diff(starts), k))]).astype(np.int64)
    return Hits(indptr, shards[order], ordinals[order], scores[order])
