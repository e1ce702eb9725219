"""The oracle: scores every document from the vectors in the store, in plain NumPy int64.

It is slow, and shares no scoring or selection code with the searchers that it judges.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...core.vectors import ImpactBatch, offsets
from .searcher import Mask, SearchResult
from .snapshot import Shard

CHUNK = 4096


class Oracle:
    """Ranks all documents exhaustively.

    Args:
        shards: the open shards; their stores are read, not their segments.
        vocabulary_size: terms are below it.
    """

    def __init__(self, shards: Sequence[Shard], vocabulary_size: int) -> None:
        self._shards, self._vocabulary_size = tuple(shards), vocabulary_size

    def search(self, queries: ImpactBatch, k: int, mask: Mask | None = None) -> SearchResult:
        """Return the k best documents of each query; see :class:`.searcher.Searcher`."""
        started = time.perf_counter_ns()
        tables = []
        for terms, impacts in queries:
            table = np.zeros(self._vocabulary_size, dtype=np.int64)
            table[terms] = impacts
            tables.append(table)
        found: list[list[tuple[NDArray[np.int64], ...]]] = [[] for _ in tables]
        postings = np.zeros(len(tables), dtype=np.int64)
        for shard in self._shards:
            deleted, documents = shard.store.deleted(), shard.store.count()
            for first in range(0, documents, CHUNK):
                last = min(first + CHUNK, documents)
                rows = shard.store.vectors(first, last)
                allowed = ~np.isin(np.arange(first, last), deleted)
                if mask is not None:
                    allowed &= mask.shards[shard.number][first:last]
                for q, table in enumerate(tables):
                    weights = table[rows.terms]
                    impacts = rows.impacts.astype(np.int64)
                    sums = np.concatenate([[0], np.cumsum(weights * impacts)])
                    scores = (sums[rows.indptr[1:]] - sums[rows.indptr[:-1]]) * allowed
                    # An impact above 255 takes two postings.
                    postings[q] += int((weights > 0).sum() + (impacts[weights > 0] > 255).sum())
                    hits = np.flatnonzero(scores)
                    found[q].append((np.full(len(hits), shard.number), hits + first, scores[hits]))
        matched = np.zeros(len(tables), dtype=np.int64)
        ranked = []
        for q, pieces in enumerate(found):
            shards, ordinals, scores = _columns(pieces)
            order = np.lexsort((shards, ordinals, -scores))[:k]
            ranked.append((shards[order], ordinals[order], scores[order]))
            matched[q] = len(scores)
        shards, ordinals, scores = _columns(ranked)
        return SearchResult(
            offsets([len(one[0]) for one in ranked]),
            shards.astype(np.int32),
            ordinals,
            scores.astype(np.int32),
            matched,
            postings,
            {"score": time.perf_counter_ns() - started, "select": 0, "merge": 0},
        )


def _columns(pieces: Sequence[tuple[NDArray[np.int64], ...]]) -> list[NDArray[np.int64]]:
    """Return the three columns of all pieces, joined."""
    return [np.concatenate([np.empty(0, np.int64), *(one[i] for one in pieces)]) for i in range(3)]
