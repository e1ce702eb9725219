import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csplade.core.errors import InputError, UnavailableError
from csplade.core.vectors import ImpactBatch, SparseBatch
from csplade.index import Index
from csplade.index.read.device import DeviceSearcher
from csplade.index.storage.wide import split_queries
from csplade.kernels.runtime.transfer import Clock, fetch

from .. import helpers

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_equals_the_cpu_scorer_on_any_segments_shards_and_tombstones(tmp_path_factory, device):
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        seed=st.integers(0, 2**32 - 1),
        count=st.integers(1, 120),
        levels=st.sampled_from([1, 255, 1000, 65_280]),
        shards=st.integers(1, 3),
        block_size=st.sampled_from([1, 7, 64]),
        segment_blocks=st.sampled_from([1, 2, 100]),
        deleted=st.sampled_from([0.0, 0.1, 1.0]),
        k=st.sampled_from([1, 9, 40, 10_000]),
    )
    def check(seed, count, levels, shards, block_size, segment_blocks, deleted, k):
        rng = np.random.default_rng(seed)
        path = helpers.make_index(
            tmp_path_factory.mktemp("case") / "index",
            helpers.random_vectors(rng, count, levels=levels),
            shards=shards,
            block_size=block_size,
            segment_blocks=segment_blocks,
        )
        for shard in range(shards):
            held = len(range(shard, count, shards))
            helpers.delete(path, shard, np.flatnonzero(rng.random(held) < deleted))
        queries = helpers.random_queries(rng, 3, levels=levels)
        with Index.open(path, threads=1) as index:
            truth = index.search(queries, k)
            index.to(device)
            helpers.assert_same(index.search(queries, k), truth)
            helpers.assert_same(index.oracle(queries, k), truth)
        shutil.rmtree(path)

    check()


@pytest.mark.parametrize("device", DEVICES)
def test_full_blocks_over_several_segments(tmp_path, device):
    rng = np.random.default_rng(4)
    count, size = 70_000, 1 << 14
    third = helpers.VOCABULARY // 3
    terms = rng.integers(0, third, (count, 3)) + third * np.arange(3)
    weights = 0.02 * rng.integers(1, 256, terms.size)
    vectors = SparseBatch(
        np.arange(count + 1) * 3, terms.reshape(-1).astype(np.int32), weights.astype(np.float32)
    )
    path = helpers.make_index(
        tmp_path / "index", vectors, batch=count, block_size=size, segment_blocks=2
    )
    helpers.delete(path, 0, rng.integers(0, count, 500))
    queries = helpers.random_queries(rng, 3)
    with Index.open(path, threads=1) as index:
        assert index.manifest.shards[0].documents == count
        for k in (1, 1000, 10_000):
            index.tensors = None
            truth = index.search(queries, k)
            index.to(device)
            found = index.search(queries, k)
            helpers.assert_same(found, truth)
            assert set(found.timings) == {"score", "select", "merge"}


def test_segments_with_a_gap_between_them_are_runs_of_their_own(collection):
    path, _ = collection
    queries = helpers.random_queries(np.random.default_rng(8), 4)
    with Index.open(path, threads=1) as index:
        assert len(index.shards[0].segments) > 1
        index.to("cpu")
        assert len(index.tensors._runs) == 2  # one for each shard
        truth = index.search(queries, 50)
        segments = index.shards[0].segments
        apart = (*segments[1:], segments[0])
        index.shards[0] = replace(index.shards[0], segments=apart)
        index.to("cpu")
        assert len(index.tensors._runs) == 3
        helpers.assert_same(index.search(queries, 50), truth)


def test_some_shards_alone(collection):
    path, _ = collection
    queries = helpers.random_queries(np.random.default_rng(9), 4)
    with Index.open(path, threads=1, shards=[1]) as index:
        truth = index.search(queries, 30)
        index.to("cpu")
        found = index.search(queries, 30)
        helpers.assert_same(found, truth)
        assert set(found.shards.tolist()) == {1}


def test_empty_queries_no_queries_and_an_empty_index(collection, tmp_path):
    path, _ = collection
    nothing = np.empty(0, np.int32)
    empty = ImpactBatch.join([(nothing, nothing)] * 2)
    none = ImpactBatch.join([])
    vectors = SparseBatch.from_rows([([], [])] * 3)
    bare = helpers.make_index(tmp_path / "bare", vectors)
    for place in (path, bare):
        with Index.open(place, threads=1) as index:
            for queries in (empty, none, helpers.random_queries(np.random.default_rng(1), 2)):
                index.tensors = None
                truth = index.search(queries, 10)
                index.to("cpu")
                helpers.assert_same(index.search(queries, 10), truth)


def test_queries_are_checked_as_on_the_cpu(collection):
    path, _ = collection
    query = ImpactBatch.join([(np.array([3], np.int32), np.array([9], np.int32))])
    with Index.open(path, threads=1) as index:
        index.to("cpu")
        with pytest.raises(InputError, match="k: 0 is out of range"):
            index.search(query, 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("levels", [255, 1000])
def test_padded_rows_become_the_same_queries(tmp_path, device, levels):
    rng = np.random.default_rng(10)
    path = helpers.make_index(
        tmp_path / "index", helpers.random_vectors(rng, 200, levels=levels), shards=2
    )
    queries = helpers.random_queries(rng, 5)
    lengths = np.diff(queries.indptr)
    width = int(lengths.max()) + 3
    terms, impacts = np.full((2, 5, width), -1, dtype=np.int32)
    impacts[:] = 0
    for i in range(5):
        terms[i, : lengths[i]], impacts[i, : lengths[i]] = queries.row(i)
    with Index.open(path, threads=1) as index:
        truth = index.search(queries, 20)
        index.to(device)
        padded = (terms, impacts, lengths.astype(np.int32))
        rows = index.tensors.queries_from_rows(
            *(torch.from_numpy(one).to(device) for one in padded)
        )
        asked = queries if levels == 255 else split_queries(queries, helpers.VOCABULARY)
        assert rows.indptr.tolist() == asked.indptr.tolist()
        assert rows.terms[: len(asked.terms)].tolist() == asked.terms.tolist()
        assert rows.impacts[: len(asked.terms)].tolist() == asked.impacts.tolist()
        assert rows.longest >= np.diff(asked.indptr).max()
        clock = Clock(device)
        found = index.tensors.search_tensors(rows, 20, clock)
        result = index.tensors.result(
            *fetch(found.keys, found.counts, found.matched, found.postings), clock=clock
        )
        helpers.assert_same(result, truth)


def test_bytes_are_those_of_the_segments(collection):
    path, _ = collection
    with Index.open(path, threads=1) as index:
        index.to("cpu")
        nbytes = index.tensors.nbytes
        held = sum(run.postings.nbytes for run in index.tensors._runs)
        assert held == sum(nbytes.values())
        # Postings of a term in a block begin at multiples of 16.
        assert nbytes["postings"] >= 3 * index.manifest.postings
        assert nbytes["live"] == 0


def test_what_does_not_fit_is_refused_with_the_numbers(collection):
    path, _ = collection
    with Index.open(path, threads=1) as index:
        shards = list(index.shards.values())
        with pytest.raises(
            UnavailableError,
            match=r"needs 3\.00 GiB on cpu .*workspace 3\.00.* 0\.50 GiB are free; ",
        ):
            DeviceSearcher.load(shards, index.manifest, "cpu", workspace=3 * 2**30, free=2**29)


def test_unknown_devices_are_refused(collection):
    path, _ = collection
    for name in ("tpu9", "meta", "cuda:99"):
        with pytest.raises(InputError, match=f"device: '{name}'"):
            Index.open(path, device=name)


def test_auto_takes_the_cpu_where_there_is_no_gpu(collection):
    path, _ = collection
    with Index.open(path, threads=1, device="auto") as index:
        assert (index.tensors is not None) == torch.cuda.is_available()
