"""How many documents hold each term, and the IDF that follows: a collection's own term weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...core.vectors import SparseBatch, offsets
from .shard import OpenSegment, Shard


@dataclass(frozen=True)
class TermStatistics:
    """Counts over the live documents of some shards; those of a collection are their sum.

    Attributes:
        documents: N, live documents.
        frequencies: int64 [V], live documents that hold each term.
    """

    documents: int
    frequencies: NDArray[np.int64]

    @classmethod
    def of(cls, shards: Sequence[Shard], vocabulary_size: int) -> TermStatistics:
        """Count exactly, from the postings and the tombstones."""
        documents, frequencies = 0, np.zeros(vocabulary_size, dtype=np.int64)
        for one in (segment for shard in shards for segment in shard.segments):
            documents += len(one) - one.deleted
            # Terms from the vocabulary's size on hold second bytes of impacts, not more documents.
            own = one.segment.terms < vocabulary_size
            np.add.at(frequencies, one.segment.terms[own], _live_postings(one)[own])
        return cls(documents, frequencies)

    def __add__(self, other: TermStatistics) -> TermStatistics:
        return TermStatistics(
            self.documents + other.documents, self.frequencies + other.frequencies
        )

    def changed(
        self,
        added: Sequence[NDArray[np.int32]],
        removed: Sequence[NDArray[np.int32]],
        documents: int,
    ) -> TermStatistics:
        """Return the counts after a commit.

        Args:
            added, removed: terms of the documents that came and went.
            documents: how many more there are now.
        """
        frequencies = self.frequencies.copy()
        for terms, sign in ((added, 1), (removed, -1)):
            np.add.at(frequencies, np.concatenate([np.empty(0, np.int32), *terms]), sign)
        return TermStatistics(self.documents + documents, frequencies)

    @cached_property
    def factors(self) -> NDArray[np.float32]:
        """Factor of each term's weight in queries, float32 [V], above 0 and at most 1.

        ``sqrt(idf(df) / idf(0))`` with BM25's ``idf(df) = ln(1 + (N - df + 0.5) / (df + 0.5))``
        (Robertson and Zaragoza 2009). The root leaves room for weights that know general IDF, as
        learned ones do; the division keeps weights inside the range that they had.
        """
        most = np.log1p(2.0 * self.documents + 1.0)
        ratios = (self.documents - self.frequencies + 0.5) / (self.frequencies + 0.5)
        factors: NDArray[np.float64] = np.sqrt(np.log1p(ratios) / most)
        return factors.astype(np.float32)

    def weigh(self, queries: SparseBatch) -> SparseBatch:
        """Return queries with every weight times the factor of its term."""
        return replace(queries, weights=queries.weights * self.factors[queries.terms])


def _live_postings(one: OpenSegment) -> NDArray[np.int64]:
    """Return the number of live postings of each term row of a segment."""
    segment = one.segment
    if not len(one.live):
        return np.diff(segment.indptr)
    counts, first = [], 0
    for number in range(len(segment)):
        block = segment.block(number)
        postings = slice(int(block.indptr[0]), int(block.indptr[-1]))
        live = one.live[first : first + block.documents][block.locals[postings]]
        counts.append(np.diff(offsets(live)[block.indptr - block.indptr[0]]))
        first += block.documents
    return np.concatenate(counts)
