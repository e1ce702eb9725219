"""Ranking quality by pytrec_eval: nDCG@10, RR@10, Recall@100, Recall@1000."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.beir import Qrels
from ..core.errors import UnavailableError

MEASURES = ("nDCG@10", "RR@10", "Recall@100", "Recall@1000")

Rankings = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Quality:
    """How good rankings are.

    Attributes:
        measures: measure -> mean over all judged queries.
        own_hits: hits with the query's own id, which were left out.
        without_ranking: judged queries without a hit; they count as 0.
    """

    measures: dict[str, float]
    own_hits: int
    without_ranking: int


def judge(
    qrels: Qrels, rankings: Rankings, *, depth: int | None = None, keep_self: bool = False
) -> Quality:
    """Measure rankings by the rule of BEIR: a hit with the query's own id does not count.

    In some collections (ArguAna, Quora) queries are documents themselves, and each would find
    itself first.

    Args:
        qrels: query id -> document id -> grade.
        rankings: query id -> document ids, best first, none repeated.
        depth: hits that count, after hits with the query's own id are left out; None counts all.
        keep_self: count hits with the query's own id as well.
    """
    judged = {
        query: [one for one in ranking if keep_self or one != query]
        for query, ranking in rankings.items()
        if query in qrels
    }
    return Quality(
        measure(qrels, {query: ranking[:depth] for query, ranking in judged.items()}),
        sum(len(rankings[query]) - len(ranking) for query, ranking in judged.items()),
        sum(not judged.get(query) for query in qrels),
    )


def import_pytrec_eval() -> Any:
    """Return the module that measures; call it before long work.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        import pytrec_eval
    except ImportError:
        raise UnavailableError(
            "measuring needs pytrec-eval-terrier; pip install 'csplade[evaluate]'"
        ) from None
    return pytrec_eval


def measure(qrels: Qrels, rankings: Rankings) -> dict[str, float]:
    """Mean of each measure over all judged queries.

    pytrec_eval sorts a run by score and breaks ties by document id. So that our own order counts
    (score descending, then order of arrival), it gets scores made from the ranks. A judged query
    without a ranking, or with an empty one, counts as 0; a ranking of a query without judgments is
    left out.

    Args:
        qrels: query id -> document id -> grade.
        rankings: query id -> document ids, best first, none repeated.

    Returns:
        Measure name -> mean, in the order of ``MEASURES``.
    """
    per_query = measure_each(qrels, rankings)
    return {
        name: sum(values[name] for values in per_query.values()) / len(per_query)
        for name in MEASURES
    }


def measure_each(qrels: Qrels, rankings: Rankings) -> dict[str, dict[str, float]]:
    """The measures of every judged query: query id -> measure name -> value."""
    whole = _evaluate(qrels, rankings, None, {"ndcg_cut.10", "recall.100,1000"})
    # reciprocal rank knows no cutoff of its own in trec_eval: the ranking is cut instead
    top10 = _evaluate(qrels, rankings, 10, {"recip_rank"})
    return {
        query: {
            "nDCG@10": whole.get(query, {}).get("ndcg_cut_10", 0.0),
            "RR@10": top10.get(query, {}).get("recip_rank", 0.0),
            "Recall@100": whole.get(query, {}).get("recall_100", 0.0),
            "Recall@1000": whole.get(query, {}).get("recall_1000", 0.0),
        }
        for query in qrels
    }


def _evaluate(
    qrels: Qrels, rankings: Rankings, cut: int | None, names: set[str]
) -> dict[str, dict[str, float]]:
    pytrec_eval = import_pytrec_eval()
    run = {
        query: {document: float(-rank) for rank, document in enumerate(ranking[:cut])}
        for query, ranking in rankings.items()
        if query in qrels and len(ranking)
    }
    # a fresh evaluator each time: it keeps state between calls
    return pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run) if run else {}
