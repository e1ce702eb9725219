"""A synthetic collection of stated distribution, for benchmarks of scoring: sparse vectors with no text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..index import Document, Index, IndexBuilder
from ..kernels.sparse import DOCUMENT_SCALE, QUERY_SCALE, ImpactBatch, SparseBatch

VOCABULARY = 30_522
# Term of rank r has probability in proportion to 1 / (r + OFFSET): a query of 43 terms then meets some four
# postings per document of 119, as SPLADE queries on MS MARCO do.
OFFSET = 21
BATCH = 8192


def probabilities() -> NDArray[np.float64]:
    """How likely each term is, the most frequent first."""
    weights = 1 / (np.arange(VOCABULARY) + OFFSET)
    return weights / weights.sum()


def describe(documents: int, mean_terms: float, seed: int) -> str:
    """The distribution in one line."""
    return (
        f"synthetic, seed {seed}: {documents:,} documents, {VOCABULARY:,} terms drawn by "
        f"1 / (rank + {OFFSET}), Poisson({mean_terms:g}) distinct terms a document, "
        "document impacts lognormal(3.2, 0.7), query impacts lognormal(6.0, 0.7)"
    )


def build(
    path: Path,
    documents: int,
    mean_terms: float,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> None:
    """Build an index of the synthetic collection."""
    rng = np.random.default_rng(seed)
    with IndexBuilder.create(path, vocabulary_size=VOCABULARY, encoder=None) as builder:
        for first in range(0, documents, BATCH):
            count = min(BATCH, documents - first)
            builder.add(
                [Document(str(first + i), "") for i in range(count)], _vectors(rng, count, mean_terms)
            )
            progress("documents", first + count, documents)
        builder.finish(lambda done, total: progress("segments", done, total))


def _vectors(rng: np.random.Generator, count: int, mean_terms: float) -> SparseBatch:
    lengths = rng.poisson(mean_terms, count)
    # Repeated draws of a term fall out, so more are drawn than needed, and the first distinct ones are kept.
    drawn = np.repeat(np.arange(count), 2 * lengths + 16)
    edges = np.cumsum(probabilities())
    terms = np.minimum(np.searchsorted(edges, rng.random(len(drawn))), VOCABULARY - 1)
    _, first = np.unique(drawn * VOCABULARY + terms, return_index=True)
    first.sort()
    owners = drawn[first]
    starts = np.searchsorted(owners, np.arange(count))
    kept = first[np.arange(len(first)) - starts[owners] < lengths[owners]]
    keys = np.sort(drawn[kept] * VOCABULARY + terms[kept])
    owners, chosen = np.divmod(keys, VOCABULARY)
    impacts = np.clip(np.rint(rng.lognormal(3.2, 0.7, len(chosen))), 1, 255)
    return SparseBatch(
        np.searchsorted(owners, np.arange(count + 1)).astype(np.int64),
        chosen.astype(np.int32),
        (impacts * DOCUMENT_SCALE).astype(np.float32),
    )


def term_shares(index: Index) -> NDArray[np.float64]:
    """Each term's share of an index's postings: how likely it is in a query drawn for that index."""
    counts = np.zeros(index.manifest.vocabulary_size)
    for _, _, block in index.blocks():
        counts[block.terms] += np.diff(block.indptr)
    return counts / max(counts.sum(), 1)


def queries(
    count: int, terms: int, seed: int, chances: NDArray[np.float64] | None = None, scale: float = QUERY_SCALE
) -> ImpactBatch:
    """Queries of that many distinct terms each (fewer where fewer have a chance), drawn as the documents' are.

    Args:
        count: how many queries.
        terms: how many terms in each.
        seed: of the draw.
        chances: float64 [vocabulary] that sums to 1; None for the synthetic collection's.
        scale: the index's query_scale.
    """
    rng = np.random.default_rng(seed)
    chances = probabilities() if chances is None else chances
    terms = min(terms, int(np.count_nonzero(chances)))
    rows = [
        np.sort(rng.choice(len(chances), terms, replace=False, p=chances)).astype(np.int32)
        for _ in range(count)
    ]
    impacts = np.clip(np.rint(rng.lognormal(6.0, 0.7, count * terms)), 1, 4095).astype(np.int32)
    return ImpactBatch(np.arange(count + 1) * terms, np.concatenate(rows), impacts, scale)
