"""Ranking quality by pytrec_eval: nDCG@10, RR@10, Recall@100, Recall@1000."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core.beir import Qrels

MEASURES = ("nDCG@10", "RR@10", "Recall@100", "Recall@1000")

Rankings = Mapping[str, Sequence[str]]


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
    import pytrec_eval

    run = {
        query: {document: float(-rank) for rank, document in enumerate(ranking[:cut])}
        for query, ranking in rankings.items()
        if query in qrels and len(ranking)
    }
    # a fresh evaluator each time: it keeps state between calls
    return pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run) if run else {}
