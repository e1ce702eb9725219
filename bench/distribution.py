"""The distribution of the synthetic benchmark collections, and queries drawn from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.vectors import ImpactBatch

VOCABULARY = 30_522
# The term of rank r has a probability in proportion to 1 / (r + OFFSET). A query of 43 terms then
# reads some four postings per document of 119 terms, as SPLADE queries on MS MARCO do.
OFFSET = 21
# Impacts are lognormal: mean and standard deviation of the logarithm.
DOCUMENT_IMPACTS = (3.2, 0.7)
QUERY_IMPACTS = (6.0, 0.7)


def probabilities(vocabulary: int = VOCABULARY) -> NDArray[np.float64]:
    """Return the probability of each term, the most frequent first: float64 [vocabulary]."""
    weights: NDArray[np.float64] = 1 / (np.arange(vocabulary) + OFFSET)
    weights /= weights.sum()
    return weights


def describe(documents: int, mean_terms: float, seed: int, vocabulary: int = VOCABULARY) -> str:
    """Describe the distribution in one line."""
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
) -> ImpactBatch:
    """Draw queries of distinct terms, with the distribution of the documents' terms.

    Args:
        count: number of queries.
        terms: number of terms of each; fewer if fewer have a probability above 0.
        seed: of the draw.
        chances: probability of each term, float64 [vocabulary]; None for the synthetic
            collection's.
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
    return ImpactBatch.join(zip(rows, np.split(impacts, count), strict=True))
