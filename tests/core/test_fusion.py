from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csplade.core.errors import InputError
from csplade.core.fusion import reciprocal_rank_fusion, weighted_sum

DOCUMENTS = st.sampled_from("abcdefghij")
RANKINGS = st.lists(st.lists(DOCUMENTS, unique=True), max_size=4)
# Few distinct scores make ties, the others need every bit.
SCORES = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0]) | st.floats(-1e30, 1e30) | st.integers(-9, 9)
SYSTEMS = st.lists(
    st.tuples(st.dictionaries(DOCUMENTS, SCORES), st.sampled_from([0.0, 0.1, 0.3, 0.5, 1, 2.0])),
    max_size=3,
)


def naive(rankings: list[list[str]], k: int) -> dict[str, Fraction]:
    sums: dict[str, Fraction] = {}
    for ranking in rankings:
        for document in ranking:
            share = Fraction(1, k + ranking.index(document) + 1)
            sums[document] = sums.get(document, Fraction()) + share
    return sums


def naive_sum(systems) -> dict[str, Fraction]:
    sums: dict[str, Fraction] = {}
    for system, weight in systems:
        exact = {document: Fraction(score) for document, score in system.items()}
        for document, score in exact.items():
            low, high = min(exact.values()), max(exact.values())
            share = (score - low) / (high - low) if high > low else Fraction(1)
            sums[document] = sums.get(document, Fraction()) + Fraction(weight) * share
    return sums


def ordered(sums: dict[str, Fraction]) -> list[tuple[str, float]]:
    """Best first; ties in the order of ``sums``, which is that of the systems."""
    return [(one, float(sums[one])) for one in sorted(sums, key=lambda one: -sums[one])]


@given(RANKINGS, st.sampled_from([0, 1, 60]))
def test_ranks_are_summed_exactly(rankings, k):
    assert reciprocal_rank_fusion(rankings, k) == ordered(naive(rankings, k))


@given(SYSTEMS)
def test_scores_are_summed_exactly(systems):
    fused = weighted_sum([one for one, _ in systems], [weight for _, weight in systems])
    assert fused == ordered(naive_sum(systems))


def test_sixty_is_the_default():
    fused = reciprocal_rank_fusion([["a", "b", "c"], ["c", "d"]])
    assert [one for one, _ in fused] == ["c", "a", "b", "d"]
    assert dict(fused)["c"] == float(Fraction(1, 63) + Fraction(1, 61))
    assert reciprocal_rank_fusion([[], []]) == reciprocal_rank_fusion([]) == []


def test_ties_do_not_depend_on_the_order_of_addition():
    rest = ["p", "q", "r", "s"]
    fused = reciprocal_rank_fusion([[*"ab", *rest, "c"], [*"bc", *rest, "a"], [*"ca", *rest, "b"]])
    assert [one for one, _ in fused if one in "abc"] == ["a", "b", "c"]
    assert len({score for one, score in fused if one in "abc"}) == 1
    assert 1 / 61 + 1 / 67 + 1 / 62 != 1 / 62 + 1 / 61 + 1 / 67  # what floats would do
    # One third and one sixth make one half, as two quarters do.
    fused = reciprocal_rank_fusion([[*"xyab"], [*"uvwb", "z", "a"]], k=0)
    assert [one for one, score in fused if score == 0.5] == ["y", "a", "b", "v"]


def test_deep_rankings():
    ranking = [str(i) for i in range(10_000)]
    fused = reciprocal_rank_fusion([ranking, ranking[::-1]])
    assert len(fused) == 10_000
    assert [one for one, _ in fused[:4]] == ["0", "9999", "1", "9998"]
    assert fused[0][1] == float(Fraction(1, 61) + Fraction(1, 10_060))


def test_scores_are_summed_by_weight():
    ours, theirs = {"a": 30.0, "b": 20.0, "c": 10.0}, {"c": 0.9, "d": 0.5, "b": 0.1}
    fused = weighted_sum([ours, theirs], [0.75, 0.25])
    assert fused[0] == ("a", 0.75)
    assert [one for one, _ in fused] == ["a", "b", "c", "d"]
    assert weighted_sum([{"a": 7.0}, {}], [0.5, 0.5]) == [("a", 0.5)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reciprocal_rank_fusion([["a"]], -1), "k: -1 is too small; allowed 0 or more"),
        (lambda: reciprocal_rank_fusion([["a"], ["b", "b"]]), "ranking 1: has a document twice"),
        (lambda: weighted_sum([{}], [0.5, 0.5]), "weights: 2 given for 1 systems"),
        (lambda: weighted_sum([{"a": float("nan")}], [1.0]), "system 0: has a score or weight"),
        (lambda: weighted_sum([{}], [float("inf")]), "system 0: has a score or weight"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call()
