from math import log2

import pytest

from csplade.evaluation.measures import MEASURES, measure, measure_each

QRELS = {"a": {"d1": 2, "d2": 1, "d3": 0}, "b": {"d9": 1}}


def test_ndcg_by_hand():
    values = measure_each(QRELS, {"a": ["d2", "d3", "d1"], "b": ["x"] * 0})["a"]
    assert values["nDCG@10"] == pytest.approx((1 + 2 / log2(4)) / (2 + 1 / log2(3)))
    assert values["RR@10"] == 1.0
    assert values["Recall@100"] == 1.0


def test_a_judged_query_without_hits_counts_as_zero():
    assert measure(QRELS, {"a": ["d1", "d2"]}) == dict.fromkeys(MEASURES, 0.5)
    assert measure(QRELS, {"a": ["d1", "d2"], "b": []}) == dict.fromkeys(MEASURES, 0.5)
    assert measure(QRELS, {}) == dict.fromkeys(MEASURES, 0.0)


def test_queries_without_judgments_are_left_out():
    assert measure(QRELS, {"a": ["d1", "d2"], "c": ["d1"]}) == dict.fromkeys(MEASURES, 0.5)


def test_cutoffs():
    ranking = [f"x{i}" for i in range(10)] + ["d9"]
    values = measure_each(QRELS, {"b": ranking})["b"]
    assert values == {"nDCG@10": 0.0, "RR@10": 0.0, "Recall@100": 1.0, "Recall@1000": 1.0}
    values = measure_each(QRELS, {"b": ranking[1:]})["b"]
    assert values["RR@10"] == pytest.approx(0.1)
    assert values["nDCG@10"] == pytest.approx(1 / log2(11))
    deep = [f"x{i}" for i in range(100)] + ["d9"]
    values = measure_each(QRELS, {"b": deep})["b"]
    assert (values["Recall@100"], values["Recall@1000"]) == (0.0, 1.0)


def test_the_given_order_counts_not_the_ids():
    """Ties are settled by the ranking: neither ascending nor descending ids change a figure."""
    assert measure_each(QRELS, {"b": ["z", "d9"]})["b"]["RR@10"] == 0.5
    assert measure_each(QRELS, {"b": ["a", "d9"]})["b"]["RR@10"] == 0.5


def test_calls_do_not_lean_on_each_other():
    first = measure(QRELS, {"a": ["d1", "d2"], "b": ["d9"]})
    measure(QRELS, {"b": ["d9"]})
    assert measure(QRELS, {"a": ["d1", "d2"], "b": ["d9"]}) == first == dict.fromkeys(MEASURES, 1.0)
