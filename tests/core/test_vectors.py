import numpy as np
import pytest

from csplade.core.errors import InputError
from csplade.core.vectors import (
    MAX_QUERY_IMPACT,
    MAX_SCORE,
    ImpactBatch,
    SparseBatch,
    first_bad_weight,
    offsets,
)


def test_rows_are_sorted_by_term():
    batch = SparseBatch.from_rows([([5, 1, 3], [0.5, 0.1, 0.3]), ([], [])])
    assert batch.indptr.tolist() == [0, 3, 3]
    assert batch.terms.tolist() == [1, 3, 5]
    np.testing.assert_array_equal(batch.weights, np.float32([0.1, 0.3, 0.5]))
    assert (batch.terms.dtype, batch.weights.dtype, batch.indptr.dtype) == (
        np.int32,
        np.float32,
        np.int64,
    )


def test_no_rows():
    batch = SparseBatch.from_rows([])
    assert len(batch) == 0
    assert batch.terms.size == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (([1, 2], [1.0, float("nan")]), "vector 1: weight of term 2 is nan"),
        (([1, 2], [float("inf"), 1.0]), "weight of term 1 is inf"),
        (([1, 2], [1.0, 0.0]), "weight of term 2 is 0.0, must be finite and > 0"),
        (([1, 2], [1.0, -3.0]), "weight of term 2 is -3.0"),
        (([7, 7], [1.0, 2.0]), "term 7 is there twice"),
        (([-1], [1.0]), "term ids run -1 to -1"),
        (([2**31], [1.0]), "allowed 0 to 2147483647"),
        (([1, 2], [1.0]), "2 terms but 1 weights"),
    ],
)
def test_broken_rows_are_refused(row, message):
    with pytest.raises(InputError, match=message):
        SparseBatch.from_rows([([0], [1.0]), row])


def test_take_and_concatenate_keep_rows():
    batch = SparseBatch.from_rows([([i, i + 9], [1.0 + i, 2.0 + i]) for i in range(5)] + [([], [])])
    taken = batch.take(np.array([5, 3, 0, 3]))
    assert [row[0].tolist() for row in taken] == [[], [3, 12], [0, 9], [3, 12]]
    joined = SparseBatch.concatenate(
        [batch.take(np.array([0, 1])), batch.take(np.array([2, 3, 4, 5]))]
    )
    for mine, theirs in zip(joined, batch, strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1], theirs[1])


def test_quantize_rounds_to_even_and_counts_clips():
    batch = SparseBatch.from_rows([([0, 1, 2, 3, 4], [0.001, 0.05, 0.07, 5.1, 9.0])])
    impacts, clipped = batch.quantize(0.02, 255)
    # 0.05 / 0.02 is 2.5 in float32 or a hair off it; 5.1 / 0.02 rounds to 255 and is no clip, 9.0
    # is one.
    assert impacts.impacts[0] == 1
    assert impacts.impacts[1] == round(float(np.float32(0.05)) / 0.02)
    assert impacts.impacts[3:].tolist() == [255, 255]
    assert clipped.tolist() == [1]
    assert impacts.scales.tolist() == [0.02]
    assert batch.quantize(0.02)[0].impacts[-1] == 450
    assert impacts.impacts.dtype == np.int32


@pytest.mark.parametrize("lengths", [[], [3], [0, 2, 0], np.array([True, False, True])])
def test_offsets_are_running_sums(lengths):
    found = offsets(lengths)
    assert found.dtype == np.int64
    assert found.tolist() == [sum(map(int, lengths[:i])) for i in range(len(lengths) + 1)]


def test_the_first_bad_weight_is_found():
    assert first_bad_weight(np.float32([1e-45, 1.0, 3e38])) is None
    assert first_bad_weight(np.empty(0, np.float32)) is None
    for bad in (0.0, -1.0, np.nan, np.inf, -np.inf):
        assert first_bad_weight(np.float32([1.0, bad, bad])) == 1


def test_join_keeps_rows_as_they_are():
    rows = [([5, 9], [1, 2]), ([], []), ([0], [3])]
    rows = [(np.array(terms, np.int32), np.array(values)) for terms, values in rows]
    impacts, weights = ImpactBatch.join(rows, 0.5), SparseBatch.join(rows)
    assert impacts.indptr.tolist() == weights.indptr.tolist() == [0, 2, 2, 3]
    assert impacts.terms.tolist() == weights.terms.tolist() == [5, 9, 0]
    assert (impacts.impacts.tolist(), impacts.scales.tolist()) == ([1, 2, 3], [0.5] * 3)
    assert (impacts.impacts.dtype, weights.weights.dtype) == (np.int32, np.float32)
    assert len(ImpactBatch.join([], 1.0)) == len(SparseBatch.join([])) == 0


def test_each_query_has_the_scale_of_its_largest_weight():
    rows = [
        ([0, 1], [11.2, 5.2]),
        ([0, 1], [0.0006, 0.0004]),
        ([], []),
        ([3], [3e38]),
        ([3], [1e-40]),
    ]
    queries = SparseBatch.from_rows(rows).quantize_queries(255)
    impacts = [row.tolist() for _, row in queries]
    assert impacts == [[4095, 1901], [4095, 2730], [], [4095], [4095]]
    weights = SparseBatch.from_rows(rows).weights
    np.testing.assert_allclose(
        queries.impacts * np.repeat(queries.scales, np.diff(queries.indptr)), weights, rtol=2e-4
    )


def test_whole_numbers_stay_as_they_are():
    rows = [([0, 1], [2.0, 1.0]), ([0], [4095.0]), ([0, 1], [2.0, 1.5]), ([0, 1], [8190.0, 2.0])]
    queries = SparseBatch.from_rows(rows).quantize_queries(255)
    assert [row.tolist() for _, row in queries] == [[2, 1], [4095], [4095, 3071], [4095, 1]]
    assert queries.scales.tolist() == [1.0, 1.0, 2 / 4095, 2.0]


@pytest.mark.parametrize("max_impact", [255, 256, 5000, 65_280])
@pytest.mark.parametrize("terms", [1, 8, 43, 2048])
def test_scores_never_exceed_int32(terms, max_impact):
    rng = np.random.default_rng(terms)
    rows = [
        (np.arange(terms), weights)
        for weights in (
            np.full(terms, 0.3),
            np.full(terms, 4095.0),
            rng.random(terms) + 1e-9,
            1e-6 ** rng.random(terms),
        )
    ]
    queries = SparseBatch.from_rows(rows).quantize_queries(max_impact)
    for _, impacts in queries:
        assert impacts.min() >= 1
        assert impacts.max() <= MAX_QUERY_IMPACT
        assert int(impacts.sum()) * max_impact <= MAX_SCORE
    if terms * MAX_QUERY_IMPACT * max_impact <= MAX_SCORE:
        assert (queries.impacts.max(), queries.impacts[0]) == (MAX_QUERY_IMPACT,) * 2
    assert queries.impacts[:terms].min() >= 14
