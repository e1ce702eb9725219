import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csplade.core.errors import InputError
from csplade.core.vectors import ImpactBatch
from csplade.kernels.score.reference import score
from csplade.kernels.score.types import Block, check_queries


def to_block(dense):
    """Block of a dense uint8 [documents, vocabulary] matrix, built with nothing but loops over
    NumPy.
    """
    terms, indptr, places, impacts = [], [0], [], []
    for term in np.flatnonzero(dense.any(axis=0)):
        documents = np.flatnonzero(dense[:, term])
        terms.append(term)
        places += documents.tolist()
        impacts += dense[documents, term].tolist()
        indptr.append(len(places))
    return Block(
        np.array(terms, np.int32),
        np.array(indptr, np.int64),
        np.array(places, np.uint16),
        np.array(impacts, np.uint8),
        len(dense),
    )


def to_queries(dense):
    rows = [np.flatnonzero(row) for row in dense]
    return ImpactBatch(
        np.cumsum([0] + [len(row) for row in rows]).astype(np.int64),
        np.concatenate([*rows, np.empty(0)]).astype(np.int32),
        np.concatenate([dense[i, row] for i, row in enumerate(rows)] + [np.empty(0)]).astype(
            np.int32
        ),
        1.0,
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    documents=st.integers(0, 70),
    vocabulary=st.integers(1, 40),
    queries=st.integers(0, 5),
    density=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
)
def test_equals_the_dense_product(seed, documents, vocabulary, queries, density):
    rng = np.random.default_rng(seed)
    left = rng.integers(1, 4096, (queries, vocabulary)) * (
        rng.random((queries, vocabulary)) < density
    )
    right = rng.integers(1, 256, (documents, vocabulary)) * (
        rng.random((documents, vocabulary)) < density
    )
    found = score(to_queries(left), to_block(right.astype(np.uint8)))
    assert found.scores.dtype == np.int32
    np.testing.assert_array_equal(found.scores, left @ right.T)
    shared = (left > 0).astype(int) @ (right > 0).T.astype(int)
    np.testing.assert_array_equal(found.matched, (shared > 0).sum(axis=1))
    np.testing.assert_array_equal(found.postings, shared.sum(axis=1))
    for shape in ((documents,), (queries, documents)):
        mask = rng.integers(0, 3, shape).astype(np.uint8)
        masked = score(to_queries(left), to_block(right.astype(np.uint8)), mask)
        np.testing.assert_array_equal(masked.scores, (left @ right.T) * (mask > 0))
        np.testing.assert_array_equal(masked.matched, ((shared > 0) & (mask > 0)).sum(axis=1))
        np.testing.assert_array_equal(masked.postings, found.postings)


def test_widest_query_with_the_largest_impacts_does_not_overflow():
    left, right = np.full((1, 2048), 4095), np.full((3, 2048), 255, np.uint8)
    found = score(to_queries(left), to_block(right))
    assert found.scores.tolist() == [[2048 * 4095 * 255] * 3]
    assert found.scores[0, 0] == 2_138_572_800


@pytest.mark.parametrize(
    ("terms", "impacts", "message"),
    [
        ([1, 1], [1, 1], "query 1: terms must ascend strictly, 1 follows 1"),
        ([3, 1], [1, 1], "terms must ascend strictly, 1 follows 3"),
        ([1, 2], [1, 0], "query 1: impact of term 2 is 0; allowed 1 to 4095"),
        ([1, 2], [4096, 1], "impact of term 1 is 4096; allowed 1 to 4095"),
        ([-1, 2], [1, 1], "term -1 is out of range; allowed 0 to 99"),
        ([1, 100], [1, 1], "query 1: term 100 is out of range; allowed 0 to 99"),
    ],
)
def test_broken_queries_are_rejected(terms, impacts, message):
    queries = ImpactBatch(
        np.array([0, 1, 3]),
        np.array([50, *terms], np.int32),
        np.array([5, *impacts], np.int32),
        1.0,
    )
    with pytest.raises(InputError, match=message):
        check_queries(queries, 100)


@pytest.mark.parametrize("mask", [np.ones(2, bool), np.ones(1, np.uint8)])
def test_masks_that_do_not_fit_are_rejected(mask):
    with pytest.raises(InputError, match=r"must be uint8 \[2\] or \[1, 2\]"):
        score(to_queries(np.ones((1, 3), int)), to_block(np.ones((2, 3), np.uint8)), mask)


def test_more_than_2048_terms_are_rejected():
    with pytest.raises(InputError, match="query 0: 2049 terms; allowed at most 2048"):
        check_queries(to_queries(np.ones((1, 2049), int)))


def test_wrong_dtypes_and_lengths_are_rejected():
    ones = np.ones(2, np.int32)
    with pytest.raises(InputError, match="must be int32"):
        check_queries(ImpactBatch(np.array([0, 2]), np.array([0, 1]), ones, 1.0))
    with pytest.raises(InputError, match="indptr ends at 3"):
        check_queries(ImpactBatch(np.array([0, 3]), ones, ones, 1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terms": np.array([4, 2], np.int32)}, "terms must be >= 0 and strictly ascending"),
        ({"indptr": np.array([0, 3, 2], np.int64)}, "indptr must ascend"),
        ({"indptr": np.array([0, 2, 4], np.int64)}, "do not agree in length"),
        ({"locals": np.array([1, 1, 0], np.uint16)}, "locals must ascend strictly"),
        ({"locals": np.array([0, 2, 0], np.uint16)}, "local number is >= the block's 2 documents"),
        ({"impacts": np.array([1, 0, 1], np.uint8)}, "an impact is 0"),
        ({"impacts": np.array([1, 1, 1], np.int32)}, "impacts is int32 .*must be uint8"),
        ({"documents": 16385}, "documents is 16385; allowed 0 to 16384"),
    ],
)
def test_broken_blocks_are_rejected(change, message):
    sound = {
        "terms": np.array([2, 4], np.int32),
        "indptr": np.array([0, 2, 3], np.int64),
        "locals": np.array([0, 1, 0], np.uint16),
        "impacts": np.array([1, 2, 3], np.uint8),
        "documents": 2,
    }
    queries = to_queries(np.ones((1, 5), int))
    assert score(queries, Block(**sound)).scores.tolist() == [[4, 2]]
    with pytest.raises(InputError, match=message):
        score(queries, Block(**sound | change))
