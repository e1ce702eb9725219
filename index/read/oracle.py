"""The oracle: scores every document from the vectors in the store, in plain NumPy int64.

Slow, and nobody's relative: it shares no code with the scorers it judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ..storage.documents import DocumentStore

CHUNK = 4096

Ranked = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], int, int]


def exhaustive(
    stores: Mapping[int, DocumentStore],
    queries: Iterable[tuple[NDArray[np.int32], NDArray[np.int32]]],
    k: int,
    vocabulary_size: int,
) -> list[Ranked]:
    """Rank all live documents for each query.

    Args:
        stores: one per shard, by its number.
        queries: (terms, impacts) each.
        k: how many to keep.
        vocabulary_size: terms are below it.

    Returns:
        For each query shards int32, ordinals int64, scores int64 by score descending, ordinal,
        shard; how many live documents share a term with it; how many (document, term) pairs are
        shared, those of deleted documents included.
    """
    tables = []
    for terms, impacts in queries:
        table = np.zeros(vocabulary_size, dtype=np.int64)
        table[terms] = impacts
        tables.append(table)
    found: list[list[tuple[NDArray[np.int64], ...]]] = [[] for _ in tables]
    pairs = [0] * len(tables)
    for shard, store in stores.items():
        dead, documents = store.dead(), store.count()
        for first in range(0, documents, CHUNK):
            last = min(first + CHUNK, documents)
            rows = store.vectors(first, last)
            live = ~np.isin(np.arange(first, last), dead)
            for q, table in enumerate(tables):
                weights = table[rows.terms]
                sums = np.concatenate([[0], np.cumsum(weights * rows.impacts)])
                scores = (sums[rows.indptr[1:]] - sums[rows.indptr[:-1]]) * live
                pairs[q] += int((weights > 0).sum())
                hits = np.flatnonzero(scores)
                found[q].append((np.full(len(hits), shard), hits + first, scores[hits]))
    answers = []
    for q, pieces in enumerate(found):
        shards, ordinals, scores = (
            np.concatenate([piece[i] for piece in pieces] + [np.empty(0, np.int64)])
            for i in range(3)
        )
        order = np.lexsort((shards, ordinals, -scores))[:k]
        answers.append(
            (shards[order].astype(np.int32), ordinals[order], scores[order], len(scores), pairs[q])
        )
    return answers
