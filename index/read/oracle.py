"""The oracle: scores every document from the vectors in the store, in plain NumPy int64.

It is slow, and shares no scoring or selection code with the searchers that it judges.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.fields import Fields, FieldValue, convert, values_of
from ...core.filters import Condition, Exists, Filter, HasId, Match, Range
from ...core.vectors import ImpactBatch, offsets
from .searcher import Mask, SearchResult, Selection
from .shard import ALL_LIVE, Shard

CHUNK = 4096


class Oracle:
    """Ranks all documents exhaustively.

    Args:
        shards: the open shards; their stores are read, not their segments.
        vocabulary_size: terms are below it.
    """

    def __init__(self, shards: Sequence[Shard], vocabulary_size: int) -> None:
        self._shards, self._vocabulary_size = tuple(shards), vocabulary_size

    def mask(self, filter: Filter, fields: Fields) -> Mask:
        """Return the documents that a resolved filter holds for, one by one from the store."""
        return Mask(
            {
                shard.number: np.fromiter(
                    (
                        _holds(filter, id, metadata, fields)
                        for one in shard.segments
                        for id, metadata in shard.store.metadata(one.ordinals)
                    ),
                    np.bool_,
                )
                for shard in self._shards
            }
        )

    def search(self, queries: ImpactBatch, k: int, mask: Selection | None = None) -> SearchResult:
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
            everything = np.arange(shard.documents)
            allowed = np.concatenate([ALL_LIVE, *(one.kept for one in shard.segments)]).astype(bool)
            if mask is not None:
                allowed &= _inside(mask, shard)
            for first in range(0, shard.documents, CHUNK):
                last = min(first + CHUNK, shard.documents)
                ordinals = shard.ordinals_at(everything[first:last])
                rows = shard.store.vectors(ordinals)
                for q, table in enumerate(tables):
                    weights = table[rows.terms]
                    impacts = rows.impacts.astype(np.int64)
                    sums = np.concatenate([[0], np.cumsum(weights * impacts)])
                    scores = sums[rows.indptr[1:]] - sums[rows.indptr[:-1]]
                    scores *= allowed[first:last]
                    # An impact above 255 takes two postings.
                    postings[q] += int((weights > 0).sum() + (impacts[weights > 0] > 255).sum())
                    hits = np.flatnonzero(scores)
                    found[q].append(
                        (np.full(len(hits), shard.number), ordinals[hits], scores[hits])
                    )
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


def _holds(condition: Condition, id: str, metadata: Mapping[str, Any], fields: Fields) -> bool:
    """Return whether a condition holds for a document."""

    def values(field: str) -> list[FieldValue]:
        return values_of(metadata, field, fields[field], id)

    match condition:
        case HasId(ids):
            return id in ids
        case Match(field, wanted, excluded):
            wanted = tuple(convert(fields[field], one) for one in wanted)
            return any((value in wanted) != excluded for value in values(field))
        case Range(field, gt, gte, lt, lte):
            compares = (
                (gt, operator.gt),
                (gte, operator.ge),
                (lt, operator.lt),
                (lte, operator.le),
            )
            bounds = [
                (convert(fields[field], bound), compare)
                for bound, compare in compares
                if bound is not None
            ]
            return any(
                all(compare(value, bound) for bound, compare in bounds) for value in values(field)
            )
        case Exists(field, exists):
            return bool(values(field)) == exists
        case Filter(must, should, must_not):
            holds = [
                [_holds(one, id, metadata, fields) for one in conditions]
                for conditions in (must, should, must_not)
            ]
            return all(holds[0]) and (any(holds[1]) or not should) and not any(holds[2])


def _inside(mask: Selection, shard: Shard) -> NDArray[np.bool_]:
    """Return which documents of a shard are inside."""
    none = np.zeros(0, dtype=np.bool_)
    return np.concatenate([none, *(mask.of(shard.number, one) for one in shard.segments)])


def _columns(pieces: Sequence[tuple[NDArray[np.int64], ...]]) -> list[NDArray[np.int64]]:
    """Return the three columns of all pieces, joined."""
    return [np.concatenate([np.empty(0, np.int64), *(one[i] for one in pieces)]) for i in range(3)]
