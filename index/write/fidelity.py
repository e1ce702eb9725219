"""What rounding weights to impacts costs, measured on a sample, and the scale that follows from it.

Queries are drawn from the sample's own documents: some terms of one document, which itself is left
out of the ranking. An integer ranking agrees with float32 as far as the float scores of its ten
best reach the tenth best float score, so documents that tie in float may change places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...core.vectors import MAX_DOCUMENT_IMPACT, SparseBatch
from ..storage.manifest import Fidelity
from ..storage.wide import ONE_BYTE

# Overlap that the choice of a scale aims for. An index needs 0.99 (``ENOUGH_OVERLAP``); the sample
# is smaller, so its scores lie further apart.
AIMED_OVERLAP = 0.996
# Share of the weights that fit into one byte with the coarsest scale: at most 1 % more postings.
ONE_BYTE_SHARES = (0.99, 0.9, 0.5)
HALVINGS = 4
QUERIES = 128
QUERY_TERMS = 16
DEPTH = 10
# float32 sums of the same terms in another order differ by less.
TIE = 1e-6


def measure(sample: SparseBatch, scale: float, maximum: int = MAX_DOCUMENT_IMPACT) -> Fidelity:
    """Return the fidelity of a document scale on a sample.

    Args:
        sample: documents.
        scale: weight of one document impact step.
        maximum: largest document impact.
    """
    return _Rankings(sample).compare(scale, maximum)


def choose_scale(sample: SparseBatch, maximum: int = MAX_DOCUMENT_IMPACT) -> float:
    """Return the coarsest document scale that keeps the sample's rankings, else the best one tried.

    The coarsest one tried has 99 % of the weights fit into one byte; what is above takes two.
    Finer ones follow: 90 %, 50 %, then half the step each time.

    Args:
        sample: documents.
        maximum: largest document impact; where it is 255, coarser scales are tried instead.
    """
    if not len(sample.weights):
        return 1.0
    wide = maximum > ONE_BYTE
    shares = ONE_BYTE_SHARES if wide else (1.0, 0.999, 0.99)
    weights = sample.weights.astype(np.float64)
    steps = [float(one) / ONE_BYTE for one in np.quantile(weights, shares)]
    steps += [steps[-1] / 2**i for i in range(1, HALVINGS + 1)] if wide else []
    rankings = _Rankings(sample)
    best, reached = steps[0], -1.0
    for step in steps:
        overlap = rankings.compare(step, maximum).overlap
        if overlap >= AIMED_OVERLAP:
            return step
        if overlap > reached:
            best, reached = step, overlap
    return best


class _Rankings:
    """Queries drawn from a sample, and the float32 scores of its documents."""

    def __init__(self, sample: SparseBatch) -> None:
        self._sample = sample
        self._order = np.argsort(sample.terms, kind="stable")
        self._terms = sample.terms[self._order]
        self._owners = np.repeat(np.arange(len(sample)), np.diff(sample.indptr))[self._order]
        rng = np.random.default_rng(0)
        self._sources = rng.permutation(np.flatnonzero(np.diff(sample.indptr)))[:QUERIES]
        rows = []
        for terms, weights in sample.take(self._sources):
            kept = np.sort(rng.permutation(len(terms))[: rng.integers(1, QUERY_TERMS + 1)])
            rows.append((terms[kept], weights[kept]))
        self._queries = SparseBatch.join(rows)
        values = sample.weights[self._order].astype(np.float64)
        self._exact = [
            self._scores(source, *query, values)
            for source, query in zip(self._sources, self._queries, strict=True)
        ]

    def compare(self, scale: float, maximum: int) -> Fidelity:
        """Rank by impacts of this scale and compare with float32."""
        quantized, _ = self._sample.quantize(scale, maximum)
        impacts = quantized.impacts[self._order].astype(np.float64)
        queries = self._queries.quantize_queries(int(impacts.max(initial=1)))
        overlaps, firsts = [], []
        for source, query, exact in zip(self._sources, queries, self._exact, strict=True):
            depth = min(DEPTH, int((exact > 0).sum()))
            if not depth:
                continue
            rounded = self._scores(source, *query, impacts)
            best, found = (np.argsort(-one, kind="stable")[:depth] for one in (exact, rounded))
            overlaps.append((exact[found] >= exact[best[-1]] * (1 - TIE)).mean())
            firsts.append(exact[found[0]] >= exact[best[0]] * (1 - TIE))
        return Fidelity(
            documents=len(self._sample),
            queries=len(overlaps),
            overlap=_mean(overlaps, 1.0),
            top_1=_mean(firsts, 1.0),
            rounded_up=_mean(self._sample.weights.astype(np.float64) / scale < 0.5, 0.0),
            two_bytes=_mean(impacts > ONE_BYTE, 0.0),
            impacts=len(np.unique(impacts)),
        )

    def _scores(
        self,
        source: int,
        terms: NDArray[np.int32],
        values: NDArray[np.generic],
        document_values: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the score of every document, 0 for the query's source; integers stay exact."""
        scores = np.zeros(len(self._sample))
        starts, ends = (np.searchsorted(self._terms, terms, side) for side in ("left", "right"))
        for start, end, value in zip(starts, ends, values.astype(np.float64), strict=True):
            scores[self._owners[start:end]] += value * document_values[start:end]
        scores[source] = 0
        return scores


def _mean(values: object, default: float) -> float:
    """Return the mean, or the default of nothing."""
    array = np.asarray(values, dtype=np.float64)
    return round(float(array.mean()), 6) if array.size else default
