"""Recorded searches give the answers of those that run kernel by kernel."""

import numpy as np
import pytest
import torch

from csplade.core.vectors import ImpactBatch
from csplade.index import Index, Mask
from csplade.index.read import device, recorded
from csplade.index.read.recorded import SearchSize
from csplade.kernels.runtime.graph import recorder

from ...forced import force_triton
from ...tape import TapeRecorder
from .. import helpers

DEVICES = [
    pytest.param("cpu", id="tape"),
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")],
    ),
]


def recorder_of(name):
    return TapeRecorder() if name == "cpu" else recorder(torch.device(name))


@pytest.fixture
def few_sizes(monkeypatch):
    """Batches of 1 and 4 queries, 10 hits and 60."""
    for module in (device, recorded):
        monkeypatch.setattr(module, "BATCHES", (1, 4))
        monkeypatch.setattr(module, "LIMITS", (10, 60))


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("levels", [255, 1000])
def test_recorded_searches_equal_the_cpu_s(tmp_path, monkeypatch, few_sizes, name, levels):
    rng = np.random.default_rng(3)
    vectors = helpers.random_vectors(rng, 150, levels=levels)
    path = helpers.make_index(tmp_path / "index", vectors, shards=2)
    helpers.delete(path, 1, [3, 40, 41])
    with Index.open(path, threads=1) as index:
        if name == "cpu":
            force_triton(monkeypatch)
        made = recorder_of(name)
        index.to(name)
        index.tensors.record(made, (96,))
        for count, k, replayed in ((1, 10, 1), (3, 7, 1), (4, 60, 1), (5, 10, 0), (2, 61, 0)):
            queries = helpers.random_queries(rng, count, levels=levels)
            before = made.replays if name == "cpu" else 0
            found = index.search(queries, k)
            helpers.assert_same(found, index.cpu.search(queries, k))
            if name == "cpu":
                assert made.replays == before + replayed


def test_queries_without_terms_and_no_queries(collection, monkeypatch, few_sizes):
    force_triton(monkeypatch)
    nothing = np.empty(0, np.int32)
    with Index.open(collection[0], threads=1, shards=[1]) as index:
        index.to("cpu")
        index.tensors.record(TapeRecorder(), (16,))
        full = helpers.random_queries(np.random.default_rng(1), 2, highest=16)
        for queries in (full, ImpactBatch.join([(nothing, nothing)] * 2), ImpactBatch.join([])):
            helpers.assert_same(index.search(queries, 5), index.cpu.search(queries, 5))


def test_masks_long_queries_and_several_devices_run_kernel_by_kernel(collection, few_sizes):
    made = TapeRecorder()
    queries = helpers.random_queries(np.random.default_rng(1), 1)
    with Index.open(collection[0], threads=1) as index:
        index.to("cpu")
        index.tensors.recorded = recorded.RecordedSearches(None, torch.device("cpu"), made)
        index.tensors.recorded._recordings = {SearchSize(1, 16, 10): None}
        mask = Mask({number: np.arange(200) % 2 == 0 for number in (0, 1)})
        for given in (mask, None):
            helpers.assert_same(
                index.search(queries, 5, given), index.cpu.search(queries, 5, given)
            )


def test_sizes_are_the_smallest_that_hold_a_search(monkeypatch):
    searches = recorded.RecordedSearches(None, torch.device("cpu"), None)
    searches._recordings = {
        SearchSize(*size): None for size in ((1, 64, 10), (1, 64, 100), (1, 256, 10), (8, 64, 10))
    }
    assert searches.size(1, 3, 1) == SearchSize(1, 64, 10)
    assert searches.size(1, 64, 11) == SearchSize(1, 64, 100)
    assert searches.size(1, 65, 10) == SearchSize(1, 256, 10)
    assert searches.size(5, 1, 1) == SearchSize(8, 64, 10)
    # A batch of two would leave most of a batch of eight empty.
    assert searches.size(2, 1, 1) is None
    assert searches.size(1, 65, 11) is None
    assert searches.size(65, 1, 1) is None
