from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csplade.core.errors import InputError, UnavailableError
from csplade.core.vectors import ImpactBatch, SparseBatch
from csplade.index import Index, Mask
from csplade.index.read.device import DeviceSearcher
from csplade.index.read.placement import _spread
from csplade.index.storage.wide import split_queries
from csplade.kernels.runtime.memory import WorkingMemory
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
    @given(shape=helpers.SHAPES, k=st.sampled_from([1, 9, 40, 10_000]), devices=st.integers(1, 3))
    def check(shape, k, devices):
        with (
            helpers.random_index(tmp_path_factory, **shape) as (path, queries, _),
            Index.open(path, threads=1) as index,
        ):
            truth = index.oracle(queries, k)
            helpers.assert_same_hits(index.search(queries, k), truth)
            index.to(*[device] * devices)
            helpers.assert_same(index.search(queries, k), truth)

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
            index.snapshot.tensors = None
            truth = index.search(queries, k)
            index.to(device)
            found = index.search(queries, k)
            helpers.assert_same(found, truth)
            assert set(found.timings) == {"score", "select", "merge"}


def test_a_shard_is_one_table_of_blocks_whatever_its_segments(collection):
    path, _ = collection
    queries = helpers.random_queries(np.random.default_rng(8), 4)
    with Index.open(path, threads=1) as index:
        segments = index.shards[0].segments
        assert len(segments) > 2
        index.to("cpu")
        truth = index.search(queries, 400)
        for kept in ((*segments[1:], segments[0]), (segments[0], *segments[2:]), ()):
            index.shards[0] = replace(index.shards[0], segments=kept)
            index.to("cpu")
            assert [part.shard for part in index.tensors._parts] == [0, 1][len(kept) == 0 :]
            mask = {number: np.zeros(200, bool) for number in (0, 1)}
            for one in kept:
                mask[0][one.ordinals] = True
            helpers.assert_same(
                _without_postings(index.search(queries, 400)),
                _without_postings(
                    index.cpu.search(queries, 400, Mask(mask | {1: np.ones(200, bool)}))
                ),
            )
        index.shards[0] = replace(index.shards[0], segments=segments)
        index.to("cpu")
        helpers.assert_same(index.search(queries, 400), truth)


def _without_postings(result):
    return replace(result, postings=np.zeros_like(result.postings))


def test_shards_are_spread_over_devices_and_searched_together(collection, tmp_path):
    vectors = helpers.random_vectors(np.random.default_rng(2), 500)
    path = helpers.make_index(tmp_path / "index", vectors, shards=5)
    helpers.delete(path, 3, [0, 7])
    rng = np.random.default_rng(9)
    queries = helpers.random_queries(rng, 6)
    with Index.open(path, threads=1) as index:
        mask = Mask({one: rng.random(100) < 0.5 for one in range(5)})
        truth = [index.search(queries, 50), index.search(queries, 50, mask)]
        for count in (1, 2, 4, 7):
            one = DeviceSearcher.load(index.place(*["cpu"] * count))
            assert len(one.devices) == count
            helpers.assert_same(one.search(queries, 50), truth[0])
            helpers.assert_same(one.search(queries, 50, mask), truth[1])


def test_the_largest_shards_go_first_each_to_the_least_filled_device():
    homes = _spread({0: 10, 1: 50, 2: 30, 3: 25, 4: 1}, 3)
    assert homes == {1: 0, 2: 1, 3: 2, 0: 2, 4: 1}
    assert _spread({7: 5}, 3) == {7: 0}


def test_every_device_must_hold_its_shards_and_the_working_memory(collection):
    with Index.open(collection[0], threads=1) as index:
        placement, memory = index.place("cpu", "cpu"), WorkingMemory(2**20)
        for free in ((2**29, 0), (0, 2**29)):
            with pytest.raises(UnavailableError, match=r"on cpu .* 0\.00 GiB are free"):
                index.load(placement, memory=memory, free=free)
        index.load(placement, memory=memory, free=(2**29, 2**29))
        assert [part.shard for part in index.tensors._parts] == [0, 1]
        assert placement.bytes_on("cpu") == sum(index.tensors.nbytes.values())
        assert placement.bytes_on("cuda:0") == 0


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
                index.snapshot.tensors = None
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
            *fetch(found.keys, found.counts, found.matched, found.postings),
            count=5,
            k=20,
            clock=clock,
        )
        helpers.assert_same(result, truth)


def test_bytes_are_those_of_the_segments(collection):
    path, _ = collection
    with Index.open(path, threads=1) as index:
        index.to("cpu")
        nbytes = index.tensors.nbytes
        held = sum(part.postings.nbytes for part in index.tensors._parts)
        assert held == sum(nbytes.values())
        # Postings of a term in a block begin at multiples of 16.
        assert nbytes["postings"] >= 3 * index.manifest.postings
        assert nbytes["live"] == 0


def test_what_does_not_fit_is_rejected_with_the_numbers(collection):
    with (
        Index.open(collection[0], threads=1) as index,
        pytest.raises(
            UnavailableError,
            match=r"needs 3\.00 GiB on cpu .*working memory 3\.00.* 0\.50 GiB are free; ",
        ),
    ):
        index.to("cpu", memory=WorkingMemory(3 * 2**30), free=[2**29])


def test_unknown_devices_are_refused(collection):
    path, _ = collection
    for name in ("tpu9", "meta", "cuda:99"):
        with pytest.raises(InputError, match=f"device: '{name}'"):
            Index.open(path, device=name)


def test_auto_takes_the_cpu_where_there_is_no_gpu(collection):
    path, _ = collection
    with Index.open(path, threads=1, device="auto") as index:
        assert (index.tensors is not None) == torch.cuda.is_available()


def test_snapshots_share_one_workspace_and_what_stays_on_the_device(collection):
    with Index.open(collection[0], threads=1) as index:
        index.to("cpu")
        now, shards = index.snapshot.tensors, list(index.snapshot.shards.values())
        later = now.following(shards, index.snapshot.manifest)
        assert later.enqueueing is now.enqueueing
        assert [one.postings for one in later._parts] == [one.postings for one in now._parts]
        assert later.recorded is None
