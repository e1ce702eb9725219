"""Sparse vectors as the layers exchange them: compressed rows of (term, weight) or (term, impact).

``weight`` is the float32 activation of a term, ``impact`` the same as an integer:
``weight = impact * scale``. An index has one scale for its documents, a query has its own. A score
is an int32 sum, so the impacts of a query and of the documents share 31 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

MAX_DOCUMENT_IMPACT = 65_280
MAX_QUERY_IMPACT = 4095
MAX_QUERY_TERMS = 2048
MAX_SCORE = 2**31 - 1


Vector = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Terms int32 [n], strictly ascending, and weights float32 [n], finite and > 0."""


def offsets(lengths: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    """Return the offsets int64 [n + 1] of n rows of these lengths: row i is ``[i]:[i + 1]``."""
    result = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(np.asarray(lengths, dtype=np.int64), out=result[1:])
    return result


def first_bad_weight(weights: NDArray[np.float32]) -> int | None:
    """Return the place of the first weight that is not finite and > 0, None if all of them are."""
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights > 0)))
    return int(bad[0]) if bad.size else None


def _join(
    rows: Iterable[tuple[NDArray[Any], NDArray[Any]]], dtype: type[np.generic]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]:
    """Return offsets, terms int32 and values of rows (terms, values)."""
    rows = list(rows)
    return (
        offsets([len(terms) for terms, _ in rows]),
        np.concatenate([np.empty(0, np.int32), *(terms for terms, _ in rows)]).astype(np.int32),
        np.concatenate([np.empty(0, dtype), *(values for _, values in rows)]).astype(dtype),
    )


@dataclass(frozen=True)
class SparseBatch:
    """Float vectors, one per row.

    Attributes:
        indptr: int64 [n + 1], row i owns ``terms[indptr[i]:indptr[i + 1]]``.
        terms: int32 [nnz], strictly ascending within a row.
        weights: float32 [nnz], finite and > 0.
    """

    indptr: NDArray[np.int64]
    terms: NDArray[np.int32]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def row(self, i: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Terms and weights of row ``i`` (views)."""
        span = slice(self.indptr[i], self.indptr[i + 1])
        return self.terms[span], self.weights[span]

    def __iter__(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        return (self.row(i) for i in range(len(self)))

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[Iterable[int], Iterable[float]]]) -> SparseBatch:
        """Build from (terms, weights) pairs in any order of terms.

        Raises:
            InputError: a term repeated, a term outside int32, a weight that is not finite or not >
                0.
        """
        checked = []
        for number, (row_terms, row_weights) in enumerate(rows):
            terms = np.asarray(row_terms, dtype=np.int64)
            weights = np.asarray(row_weights, dtype=np.float32)
            if terms.shape != weights.shape or terms.ndim != 1:
                raise InputError(f"vector {number}: {terms.size} terms but {weights.size} weights")
            order = np.argsort(terms, kind="stable")
            terms, weights = terms[order], weights[order]
            if terms.size and (terms[0] < 0 or terms[-1] >= 2**31):
                raise InputError(
                    f"vector {number}: term ids run {terms[0]} to {terms[-1]}, allowed 0 to "
                    "2147483647"
                )
            if (repeated := np.flatnonzero(terms[1:] == terms[:-1])).size:
                raise InputError(f"vector {number}: term {terms[repeated[0]]} is there twice")
            if (bad := first_bad_weight(weights)) is not None:
                raise InputError(
                    f"vector {number}: weight of term {terms[bad]} is {weights[bad]}, must be "
                    "finite and > 0"
                )
            checked.append((terms, weights))
        return cls.join(checked)

    @classmethod
    def join(cls, rows: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> Self:
        """Build from rows (terms, weights) that keep the rules already; nothing is checked."""
        return cls(*_join(rows, np.float32))

    @classmethod
    def concatenate(cls, batches: Iterable[SparseBatch]) -> SparseBatch:
        """Rows of all batches, in order."""
        batches = list(batches)
        lengths = [np.diff(batch.indptr) for batch in batches]
        return cls(
            offsets(np.concatenate([np.empty(0, np.int64), *lengths])),
            np.concatenate([np.empty(0, np.int32), *(batch.terms for batch in batches)]),
            np.concatenate([np.empty(0, np.float32), *(batch.weights for batch in batches)]),
        )

    def take(self, rows: NDArray[np.int64]) -> SparseBatch:
        """The given rows, in the given order."""
        lengths = np.diff(self.indptr)[rows]
        indptr = offsets(lengths)
        source = np.repeat(self.indptr[rows] - indptr[:-1], lengths) + np.arange(indptr[-1])
        return SparseBatch(indptr, self.terms[source], self.weights[source])

    def quantize(
        self, scale: float, maximum: int = MAX_DOCUMENT_IMPACT
    ) -> tuple[ImpactBatch, NDArray[np.int64]]:
        """Return the rows as documents: ``impact = clip(rint(weight / scale), 1, maximum)``.

        Also returns, int64 [n], how many impacts of each row were reduced to the maximum.
        """
        exact = np.rint(self.weights.astype(np.float64) / scale)
        impacts = np.clip(exact, 1, maximum).astype(np.int32)
        clipped = np.diff(offsets(exact > maximum)[self.indptr])
        return ImpactBatch(self.indptr, self.terms, impacts, np.full(len(self), scale)), clipped

    def quantize_queries(self, max_impact: int) -> ImpactBatch:
        """Return the rows as queries, each scaled by its own largest weight.

        ``impact = max(1, rint(weight / scale))`` with ``scale = largest weight / levels``. Levels
        are 4,095; the largest weight itself where all are whole numbers up to that, which stay as
        they are; fewer where scores could exceed int32.

        Args:
            max_impact: largest document impact of the index.
        """
        largest = np.array([weights.max(initial=0.0) for _, weights in self], dtype=np.float64)
        largest[largest == 0] = 1.0
        lengths = np.diff(self.indptr)
        fractions = np.diff(offsets(self.weights != np.rint(self.weights))[self.indptr])
        whole = (fractions == 0) & (largest <= MAX_QUERY_IMPACT)
        levels = np.where(whole, largest, MAX_QUERY_IMPACT).astype(np.int64)

        def impacts_of(levels: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
            scales = largest / levels
            exact = np.rint(self.weights.astype(np.float64) / np.repeat(scales, lengths))
            return np.maximum(exact, 1).astype(np.int32), scales

        impacts, scales = impacts_of(levels)
        sums = np.diff(offsets(impacts)[self.indptr])
        budget = MAX_SCORE // max_impact
        if (over := sums > budget).any():
            # Rounding adds at most 1/2 to an impact here and 1 there: sums stay within the budget.
            fewer = (budget - lengths) * levels // np.maximum(sums + lengths, 1)
            impacts, scales = impacts_of(np.where(over, fewer, levels))
        return ImpactBatch(self.indptr, self.terms, impacts, scales)


@dataclass(frozen=True)
class ImpactBatch:
    """Integer vectors, one per row; ``weight = impact * scale`` of its row.

    Attributes:
        indptr: int64 [n + 1].
        terms: int32 [nnz], strictly ascending within a row.
        impacts: int32 [nnz], 1 to 65,280 for documents, 1 to 4,095 for queries.
        scales: float64 [n], weight of one impact step of each row.
    """

    indptr: NDArray[np.int64]
    terms: NDArray[np.int32]
    impacts: NDArray[np.int32]
    scales: NDArray[np.float64]

    @classmethod
    def join(
        cls,
        rows: Iterable[tuple[NDArray[Any], NDArray[Any]]],
        scales: float | NDArray[np.float64] = 1.0,
    ) -> Self:
        """Build from rows (terms, impacts) that keep the rules already; nothing is checked."""
        indptr, terms, impacts = _join(rows, np.int32)
        return cls(indptr, terms, impacts, np.full(len(indptr) - 1, scales, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def row(self, i: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Terms and impacts of row ``i`` (views)."""
        span = slice(self.indptr[i], self.indptr[i + 1])
        return self.terms[span], self.impacts[span]

    def __iter__(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        return (self.row(i) for i in range(len(self)))
