"""Fuse the rankings of several systems for one query: hybrid retrieval.

Sums are exact, so that equal documents tie and order never depends on rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .errors import InputError

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
        k: 0 or more; the larger, the less the first ranks stand out.

    Raises:
        InputError: ``k`` below 0, or a document that is in a ranking twice.
    """
    if k < 0:
        raise InputError(f"k: {k} is too small; allowed 0 or more")
    longest = max(map(len, rankings), default=0)
    denominator = math.lcm(*range(k + 1, k + longest + 1))
    shares = [denominator // (k + rank) for rank in range(1, longest + 1)]
    systems = []
    for number, ranking in enumerate(rankings):
        system = dict(zip(ranking, shares, strict=False))
        if len(system) < len(ranking):
            raise InputError(f"ranking {number}: has a document twice; keep its best rank")
        systems.append(system)
    return _fused(systems, denominator)


def weighted_sum(
    systems: Sequence[Mapping[str, float]], weights: Sequence[float]
) -> list[tuple[str, float]]:
    """Return document ids with the weighted sum of their normalized scores, best first.

    Each system's scores are moved to 0 to 1: ``(score - worst) / (best - worst)`` of its ranking,
    all 1 if they are equal. A document that a system did not rank has 0 there. Ties keep the order
    of the first system that has the document. Sources: Fox and Shaw, "Combination of Multiple
    Searches", TREC-2, 1994, for the sum (CombSUM); Lee, "Analyses of Multiple Evidence
    Combination", SIGIR 1997, for the normalization; Bruch, Gai and Ingber, "An Analysis of Fusion
    Functions for Hybrid Retrieval", ACM TOIS 2023, for the weights.

    Args:
        systems: document id -> finite score, of each system.
        weights: of each system, finite; usually 0 or more, with a sum of 1.

    Raises:
        InputError: not as many weights as systems, or a score or weight that is not finite.
    """
    if len(systems) != len(weights):
        raise InputError(f"weights: {len(weights)} given for {len(systems)} systems; give one each")
    for number, (system, weight) in enumerate(zip(systems, weights, strict=True)):
        if not all(map(math.isfinite, (weight, *system.values()))):
            raise InputError(f"system {number}: has a score or weight that is not finite")
    parts = [_normalized(system, weight) for system, weight in zip(systems, weights, strict=True)]
    denominator = math.lcm(*(below for _, below in parts))
    return _fused(
        [
            {document: value * (denominator // below) for document, value in values.items()}
            for values, below in parts
        ],
        denominator,
    )


def _normalized(system: Mapping[str, float], weight: float) -> tuple[dict[str, int], int]:
    """Return the weighted shares of a system as numerators and their one denominator."""
    ratios = {document: score.as_integer_ratio() for document, score in system.items()}
    unit = math.lcm(*(below for _, below in ratios.values()))
    whole = {document: above * (unit // below) for document, (above, below) in ratios.items()}
    low, high = min(whole.values(), default=0), max(whole.values(), default=0)
    above, below = weight.as_integer_ratio()
    if low == high:
        return dict.fromkeys(whole, above), below
    shares = {document: above * (value - low) for document, value in whole.items()}
    return shares, below * (high - low)


def _fused(systems: Sequence[Mapping[str, int]], denominator: int) -> list[tuple[str, float]]:
    """Return each document with its sum, best first, given the numerators of each system."""
    sums: dict[str, int] = {}
    for system in systems:
        for document, value in system.items():
            sums[document] = sums.get(document, 0) + value
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    return [(document, value / denominator) for document, value in ordered]
