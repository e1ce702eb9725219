"""The distribution of the synthetic collections that benchmarks use: which terms, and queries drawn
from them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.vectors import QUERY_SCALE, ImpactBatch

VOCABULARY = 30_522
# Term of rank r has probability in proportion to 1 / (r + OFFSET): a query of 43 terms then meets
# some four postings per document of 119, as SPLADE queries on MS MARCO do.
OFFSET = 21
# Impacts are lognormal: mean and deviation of the logarithm.
DOCUMENT_IMPACTS = (3.2, 0.7)
QUERY_IMPACTS = (6.0, 0.7)


def probabilities(vocabulary: int = VOCABULARY) -> NDArray[np.float64]:
    """How likely each term is, the most frequent first."""
    weights = 1 / (np.arange(vocabulary) + OFFSET)
    return weights / weights.sum()


def describe(documents: int, mean_terms: float, seed: int, vocabulary: int = VOCABULARY) -> str:
    """The distribution in one line."""
    return (
        f"synthetic, seed {seed}: {documents:,} documents, {vocabulary:,} terms drawn by "
        f"1 / (rank + {OFFSET}), Poisson({mean_terms:g}) distinct terms a document, "
        f"document impacts lognormal{DOCUMENT_IMPACTS}, query impacts lognormal{QUERY_IMPACTS}"
    )


def queries(
    count: int,
    terms: int,
    seed: int,
    chances: NDArray[np.float64] | None = None,
    scale: float = QUERY_SCALE,
) -> ImpactBatch:
    """Queries of that many distinct terms each (fewer where fewer have a chance), drawn as the
    documents' are.

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
    impacts = np.clip(np.rint(rng.lognormal(*QUERY_IMPACTS, count * terms)), 1, 4095).astype(
        np.int32
    )
    return ImpactBatch(np.arange(count + 1) * terms, np.concatenate(rows), impacts, scale)
