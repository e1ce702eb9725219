"""Masks mean the same to every searcher, and together with tombstones."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csplade.core.errors import InputError
from csplade.core.vectors import ImpactBatch, SparseBatch
from csplade.index import Index, Mask

from .. import helpers
from ..helpers import assert_same_hits


def lengths(index):
    return {number: shard.documents for number, shard in index.shards.items()}


def test_masked_searches_agree_with_the_oracle_and_with_the_whole_ranking(tmp_path_factory):
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        shape=helpers.SHAPES,
        allowed=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
        k=st.sampled_from([1, 9, 10_000]),
    )
    def check(shape, allowed, k):
        with (
            helpers.random_index(tmp_path_factory, **shape) as (path, queries, rng),
            Index.open(path, threads=2) as index,
        ):
            mask = Mask({one: rng.random(held) < allowed for one, held in lengths(index).items()})
            truth = index.oracle(queries, k, mask)
            assert_same_hits(index.search(queries, k, mask), truth)
            whole = index.oracle(queries, 10_000)
            index.to("cpu")
            assert_same_hits(index.search(queries, k, mask), truth)
        np.testing.assert_array_equal(truth.postings, whole.postings)
        for i in range(len(queries)):
            hits = zip(*whole.row(i), strict=True)
            inside = [one for one in hits if mask.shards[int(one[0])][one[1]]]
            assert list(zip(*truth.row(i), strict=True)) == inside[:k]
            assert truth.matched[i] == len(inside)

    check()


def test_one_mask_serves_many_threads_and_queries(collection):
    path, _ = collection
    queries = helpers.random_queries(np.random.default_rng(3), 20)
    with Index.open(path, threads=4) as index:
        mask = Mask({one: np.arange(held) % 3 == 0 for one, held in lengths(index).items()})
        helpers.assert_same(index.search(queries, 9, mask), index.oracle(queries, 9, mask))


@pytest.mark.parametrize("torch_device", [False, True])
@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ({0: np.ones(200, bool)}, r"mask: has shards \[0\]; needed are \[0, 1\]"),
        (
            {0: np.ones(200, bool), 1: np.ones(199, bool)},
            r"mask: shard 1 is bool \[199\]; needed is bool \[200\]",
        ),
        (
            {0: np.ones(200, bool), 1: np.ones(200, np.uint8)},
            r"mask: shard 1 is uint8 \[200\]; needed is bool \[200\]",
        ),
    ],
)
def test_masks_that_do_not_fit_are_rejected(collection, shards, message, torch_device):
    queries = helpers.random_queries(np.random.default_rng(3), 1)
    with Index.open(collection[0], threads=1) as index:
        if torch_device:
            index.to("cpu")
        for search in (index.search, index.oracle):
            with pytest.raises(InputError, match=message):
                search(queries, 5, Mask(shards))


@pytest.mark.parametrize("device", ["numba", "cpu"])
def test_a_search_that_nobody_waits_for_stops_between_blocks(tmp_path, monkeypatch, device):
    """One block, or with tensors one run of blocks, is scored after the last time it is wanted."""
    monkeypatch.setattr("csplade.kernels.score.cpu.BLOCKS_AT_ONCE", 1)
    vectors = SparseBatch.from_rows([([0], [helpers.SCALE])] * 24)
    path = helpers.make_index(tmp_path / "index", vectors, shards=3, block_size=2)
    queries = ImpactBatch.join([([0], [5]), ([0], [7])])
    with Index.open(path, threads=1) as index:
        truth = index.oracle(queries, 24)
        if device == "cpu":
            index.to("cpu")
        helpers.assert_same(index.search(queries, 24, wanted=lambda query: True), truth)
        asked = []

        def wanted(query):
            asked.append(query)
            return query == 1 or asked.count(0) <= 1

        found = index.search(queries, 24, wanted=wanted)
        for mine, theirs in zip(found.row(1), truth.row(1), strict=True):
            np.testing.assert_array_equal(mine, theirs)  # the other one is not touched
        assert found.postings[1] == truth.postings[1] == 24
        asked.clear()
        once = index.search(queries, 24, wanted=lambda query: not asked and not asked.append(query))
    if device == "cpu":
        assert once.postings.tolist() == [8, 8]  # of the first of three shards
    else:
        assert found.postings[0] == 2  # of the first of twelve blocks
        assert once.postings.tolist() == [2, 0]
