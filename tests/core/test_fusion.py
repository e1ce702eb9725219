import pytest

from csplade.core.fusion import reciprocal_rank_fusion, weighted_sum


def test_ranks_are_summed():
    fused = reciprocal_rank_fusion([["a", "b", "c"], ["c", "d"]])
    assert [one for one, _ in fused] == ["c", "a", "b", "d"]
    assert dict(fused)["c"] == 1 / 63 + 1 / 61
    assert dict(fused)["d"] == 1 / 62
    assert reciprocal_rank_fusion([["a"], ["b"]], k=0) == [("a", 1.0), ("b", 1.0)]
    assert reciprocal_rank_fusion([[], []]) == []


def test_scores_are_summed_by_weight():
    ours, theirs = {"a": 30.0, "b": 20.0, "c": 10.0}, {"c": 0.9, "d": 0.5, "b": 0.1}
    fused = weighted_sum([ours, theirs], [0.75, 0.25])
    assert [one for one, _ in fused] == ["a", "b", "c", "d"]
    assert dict(fused) == pytest.approx({"a": 0.75, "b": 0.375, "c": 0.25, "d": 0.125})
    assert weighted_sum([{"a": 7.0}, {}], [0.5, 0.5]) == [("a", 0.5)]
