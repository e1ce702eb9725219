"""Join the rankings of several systems for one query: hybrid retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

RRF_K = 60


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[str]], k: int = RRF_K
) -> list[tuple[str, float]]:
    """Return document ids with the sum of ``1 / (k + rank)`` over the rankings, best first.

    Scores of the systems need not be comparable. Ties keep the order of the first ranking that has
    the document. Source: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms
    Condorcet and individual Rank Learning Methods", SIGIR 2009, which also chose ``k = 60``.

    Args:
        rankings: document ids of each system, best first, none repeated.
        k: how little the first ranks stand out.
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, document in enumerate(ranking, 1):
            scores[document] = scores.get(document, 0.0) + 1 / (k + rank)
    return _sorted(scores)


def weighted_sum(
    systems: Sequence[Mapping[str, float]], weights: Sequence[float]
) -> list[tuple[str, float]]:
    """Return document ids with the weighted sum of their normalized scores, best first.

    Each system's scores are moved to 0 to 1, the worst of its ranking to 0 and the best to 1 (all
    to 1 if they are equal); a document that it did not rank has 0. Ties keep the order of the first
    system that has the document.

    Args:
        systems: document id -> finite score, of each system.
        weights: of each system.
    """
    scores: dict[str, float] = {}
    for found, weight in zip(systems, weights, strict=True):
        low, high = min(found.values(), default=0.0), max(found.values(), default=0.0)
        for document, score in found.items():
            share = (score - low) / (high - low) if high > low else 1.0
            scores[document] = scores.get(document, 0.0) + weight * share
    return _sorted(scores)


def _sorted(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(scores.items(), key=lambda item: -item[1])
