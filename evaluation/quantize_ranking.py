"""Exhaustive rankings at each impact precision, and how near they are to the exact one.

The reference is the float32 encoder scored with float weights: exact, and what overlap and cosine
are counted against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.vectors import SparseBatch
from ..index.storage.wide import ONE_BYTE

DEPTH = 10
FLOAT = "float"
SCALES = (0.005, 0.01, 0.02, 0.04)


@dataclass(frozen=True)
class Reference:
    """The exact vectors, and the best documents of each query by them."""

    documents: SparseBatch
    queries: SparseBatch
    tops: list[NDArray[np.int64]]

    def cosine(self, documents: SparseBatch, queries: SparseBatch) -> float:
        """Return the mean cosine of vectors with the exact ones, documents and queries alike."""
        pairs = [
            *zip(self.documents, documents, strict=True),
            *zip(self.queries, queries, strict=True),
        ]
        return float(np.mean([_cosine(one, other) for one, other in pairs]))

    def overlap(self, tops: list[NDArray[np.int64]]) -> float:
        """Return the mean share of the exact best documents that is among the given ones."""
        return float(
            np.mean(
                [
                    len(np.intersect1d(one[:DEPTH], other[:DEPTH])) / len(one[:DEPTH])
                    for one, other in zip(self.tops, tops, strict=True)
                    if len(one)
                ]
            )
        )


def rank_all(
    documents: SparseBatch, queries: SparseBatch
) -> dict[str, tuple[list[NDArray[np.int64]], int]]:
    """Return by impact precision the best rows of documents of each query, and impacts clipped."""
    ranked = {FLOAT: (rank(documents, documents.weights, queries, queries.weights), 0)}
    asked = queries.quantize_queries(ONE_BYTE).impacts
    largest = float(documents.weights.max(initial=1.0))
    settings = [(f"8 bits, {scale}", scale, ONE_BYTE) for scale in SCALES]
    for name, scale, most in [*settings, ("4 bits, largest / 15", largest / 15, 15)]:
        impacts, clipped = documents.quantize(scale, most)
        ranked[name] = (rank(documents, impacts.impacts, queries, asked), int(clipped.sum()))
    return ranked


def rank(
    documents: SparseBatch,
    document_values: NDArray[Any],
    queries: SparseBatch,
    query_values: NDArray[Any],
) -> list[NDArray[np.int64]]:
    """Return the best rows of each query by score, then by order of arrival.

    Integers are added in int64, floats in float64.
    """
    kind = np.float64 if document_values.dtype.kind == "f" else np.int64
    size = int(max(documents.terms.max(initial=0), queries.terms.max(initial=0))) + 1
    table = np.zeros((size, len(queries)), dtype=kind)
    table[queries.terms, np.repeat(np.arange(len(queries)), np.diff(queries.indptr))] = query_values
    scores = np.zeros((len(queries), len(documents)), dtype=kind)
    for row, (start, end) in enumerate(zip(documents.indptr, documents.indptr[1:], strict=False)):
        scores[:, row] = document_values[start:end].astype(kind) @ table[documents.terms[start:end]]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    return [top[scores[query, top] > 0] for query, top in enumerate(order)]


def _cosine(
    one: tuple[NDArray[Any], NDArray[Any]], other: tuple[NDArray[Any], NDArray[Any]]
) -> float:
    _, left, right = np.intersect1d(one[0], other[0], assume_unique=True, return_indices=True)
    norm = float(np.linalg.norm(one[1]) * np.linalg.norm(other[1]))
    return (
        float(one[1][left] @ other[1][right]) / norm
        if norm
        else float(len(one[0]) == len(other[0]))
    )
