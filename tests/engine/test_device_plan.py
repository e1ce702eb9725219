import dataclasses
from copy import copy

import numpy as np
import pytest
import torch

from csplade.core.errors import InputError
from csplade.core.filters import Filter, Range
from csplade.engine import device_plan
from csplade.engine.backend import Query
from csplade.engine.collection import Collection
from csplade.engine.device_plan import DevicePlan
from csplade.engine.observer import NullObserver
from csplade.engine.plan import Plan, SearchTask
from csplade.index import Index
from csplade.index.read.recorded import RecordedSearches
from csplade.kernels.runtime import transfer
from csplade.kernels.runtime.graph import recorder
from csplade.model import Encoder
from csplade.model.recorded import RecordedEncodings, TextSize

from ..forced import force_triton
from ..tape import TapeRecorder

transfer_wait = transfer.wait

TEXTS = ["sunlight in summer", "", "iron", "where do rivers go at night", "word " * 200]
needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def plain(text_index, encoder):
    """Encoder and index apart: vectors come to the host in between."""
    with Index.open(text_index, threads=1) as index:
        yield Collection(index, encoder)


@pytest.fixture(scope="module")
def together(text_index, encoder):
    """Encoder and index on one torch device."""
    with Index.open(text_index, threads=1) as index:
        index.to("cpu")
        yield Collection(index, encoder)


def without_times(answers):
    return [dataclasses.replace(answer, timings={}) for answer in answers]


def test_only_what_shares_a_device_is_chained(plain, together, text_index):
    assert together.on_one_device
    assert not plain.on_one_device
    with Index.open(text_index, threads=1) as index:
        index.to("cpu")
        assert not Collection(index).on_one_device


def test_the_query_modifier_is_applied_alike(text_index_of, encoder):
    path = text_index_of(query_modifier="idf")
    with Index.open(path, threads=1) as apart, Index.open(path, threads=1) as index:
        index.to("cpu")
        together, plain = Collection(index, encoder), Collection(apart, encoder)
        assert together.on_one_device
        found = together.search(TEXTS, 20, explain=True)
        assert without_times(found) == without_times(plain.search(TEXTS, 20, explain=True))
        assert found[0].hits


@pytest.mark.parametrize("k", [1, 7, 10_000])
def test_answers_are_the_same_as_apart(plain, together, k):
    found = together.search(TEXTS, k, explain=True)
    assert without_times(found) == without_times(plain.search(TEXTS, k, explain=True))
    assert found[0].hits
    assert found[1].hits == ()
    assert found[4].cut.tokens > 100
    assert {"tokenize", "encode", "sparsify", "score", "select", "merge", "fetch"} == set(
        found[0].timings
    )
    assert together.search([], k) == []


def test_every_number_is_the_same_as_apart(plain, together):
    tokens = together.encoder.tokenize(TEXTS, "query")
    ranked = DevicePlan(together.encoder, together.index).rank(tokens, "query", 20)
    encoded = plain.encoder.encode_tokens(tokens, "query")
    queries = plain.quantize(encoded.vectors, plain.index.snapshot)
    truth = plain.index.search(queries, 20)
    for name in ("tokens", "dropped_tokens", "dropped_terms"):
        np.testing.assert_array_equal(getattr(ranked.encoded, name), getattr(encoded, name))
    for name in ("indptr", "terms", "impacts"):
        mine, theirs = getattr(ranked.queries, name), getattr(queries, name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(ranked.queries.scales, queries.scales)
    for name in ("indptr", "shards", "ordinals", "scores", "matched", "postings"):
        np.testing.assert_array_equal(getattr(ranked.result, name), getattr(truth, name))


def test_k_is_checked(together):
    with pytest.raises(InputError, match="k: 0 is out of range"):
        together.search(["iron"], 0)


def test_one_batch_answers_texts_and_vectors_of_one_batch(plain, together, monkeypatch):
    """Texts to encode, texts and vectors to search: all waiting at once, so that they make one
    batch.
    """
    vector = plain.encoder.encode_query(["maps of the sea"]).row(0)
    ranked = []
    rank = DevicePlan.rank
    monkeypatch.setattr(DevicePlan, "rank", lambda *a: ranked.append(len(a[1])) or rank(*a))

    def run(collection):
        tasks = [
            SearchTask(Query(text="iron", k=5)),
            SearchTask(Query(vector=vector, k=9)),
            SearchTask(Query(text="birds at sea", k=3), kind="document"),
            SearchTask(Query(text="sunlight", k=0)),
        ]
        plan = Plan(collection, NullObserver())
        plan.tokenize(tasks)
        plan.run(tasks)
        return tasks

    mine, theirs = run(together), run(plain)
    assert ranked == [1, 1]  # queries and documents are encoded apart
    for k, one, other in zip((5, 9, 3), mine, theirs, strict=False):
        for found, expected in zip(one.vector, other.vector, strict=True):
            np.testing.assert_array_equal(found, expected)
        assert (one.tokens_read, one.cut) == (other.tokens_read, other.cut)
        for found, expected in zip(
            one.result.row(one.row), other.result.row(other.row), strict=True
        ):
            np.testing.assert_array_equal(found[:k], expected[:k])
    assert mine[3].result is theirs[3].result is None
    np.testing.assert_array_equal(mine[3].vector[0], theirs[3].vector[0])


def test_texts_of_one_batch_keep_their_own_filters(plain, together):
    filters = [None, *(Filter(must=(Range("number", lt=bound),)) for bound in (10, 30, 10, 0))]

    def run(collection):
        tasks = [
            SearchTask(Query(text=text, k=48, filter=filter))
            for text, filter in zip(TEXTS, filters, strict=True)
        ]
        plan = Plan(collection, NullObserver())
        plan.tokenize(tasks)
        plan.run(tasks)
        return [plan.answer(task) for task in tasks]

    found = run(together)
    expected = [dataclasses.replace(one, postings=0) for one in without_times(run(plain))]
    assert [dataclasses.replace(one, postings=0) for one in without_times(found)] == expected
    assert [len(one) for one in found] == [48, 0, 30, 10, 0]


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_gpu)])
def test_a_batch_waits_for_the_gpu_once(text_index, tiny_model, device):
    encoder = Encoder.from_pretrained(tiny_model, device=device, quantization="none")
    with Index.open(text_index, threads=1, device=device) as index:
        tokens, plan = encoder.tokenize(TEXTS, "query"), DevicePlan(encoder, index)
        truth = plan.rank(tokens, "query", 20)  # compiles what there is to compile
        plan.record(recorder(torch.device(device)))
        for texts in (TEXTS, TEXTS[:3]):  # kernel by kernel, because of a long text, and recorded
            tokens, waits = encoder.tokenize(texts, "query"), []

            def counted(*downloads, waits=waits):
                torch.cuda.set_sync_debug_mode("default")
                waits.append(len(downloads))
                return transfer_wait(*downloads)

            try:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(device_plan, "wait", counted)
                    patch.setattr(transfer, "wait", counted)
                    torch.cuda.set_sync_debug_mode("error")  # any wait before the one copy raises
                    again = plan.rank(tokens, "query", 20)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            assert len(waits) == 1
            found = index.cpu.search(again.queries, 20)
            for name in ("indptr", "shards", "ordinals", "scores", "matched", "postings"):
                np.testing.assert_array_equal(getattr(again.result, name), getattr(found, name))
            assert (
                again.encoded.vectors.row(0)[0].tolist() == truth.encoded.vectors.row(0)[0].tolist()
            )


@pytest.fixture(scope="module")
def single(tiny_model):
    """The tiny model in float32, the only type that interpreted kernels multiply."""
    return Encoder.from_pretrained(tiny_model, device="cpu", dtype=torch.float32)


@pytest.fixture
def few_sizes(monkeypatch):
    """Batches of 2 texts of 16 tokens, and 10 hits."""
    monkeypatch.setattr("csplade.model.recorded.BATCHES", (2,))
    monkeypatch.setattr("csplade.model.recorded.LENGTHS", (16,))
    for module in ("device", "recorded"):
        monkeypatch.setattr(f"csplade.index.read.{module}.BATCHES", (2,))
        monkeypatch.setattr(f"csplade.index.read.{module}.LIMITS", (10,))
    monkeypatch.setattr(device_plan, "TERMS", ())


def assert_close(found, truth):
    """The same terms, the same weights but for the order in which floats are added."""
    np.testing.assert_array_equal(found.indptr, truth.indptr)
    np.testing.assert_array_equal(found.terms, truth.terms)
    np.testing.assert_allclose(found.weights, truth.weights, rtol=1e-4)


@pytest.mark.parametrize("variant", ["bidirectional", "causal", "echo"])
def test_recorded_batches_give_the_answers_of_their_vectors(
    text_index_of, single, tiny_model_of, monkeypatch, few_sizes, variant
):
    encoder = single
    if variant != "bidirectional":
        model = tiny_model_of(variant=variant)
        encoder = Encoder.from_pretrained(model, device="cpu", dtype=torch.float32)
    factors = torch.linspace(0.5, 2, encoder.vocabulary_size)
    # Small blocks, which the interpreter scores sooner.
    with Index.open(text_index_of(block_size=64), threads=1) as index:
        index.to("cpu")
        plan = DevicePlan(encoder, index, factors)
        batches = [["iron"], ["", "sunlight in summer"], ["where do rivers go at night"] * 2]
        tokens = [encoder.tokenize(texts, "query") for texts in batches]
        truth = [plan.rank(one, "query", 5) for one in tokens]
        force_triton(monkeypatch)
        made, waits = TapeRecorder(), []
        plan.record(made)
        for module, name in ((device_plan, "wait"), (transfer, "wait")):
            monkeypatch.setattr(module, name, lambda *a: waits.append(1) or transfer_wait(*a))
        for turn, (one, expected) in enumerate(zip(tokens, truth, strict=True)):
            found = plan.rank(one, "query", 5)
            assert (made.replays, len(waits)) == (2 * turn + 2, turn + 1)
            assert_close(found.encoded.vectors, expected.encoded.vectors)
            again = index.cpu.search(found.queries, 5)
            for name in ("indptr", "shards", "ordinals", "scores", "matched", "postings"):
                np.testing.assert_array_equal(getattr(found.result, name), getattr(again, name))
            np.testing.assert_array_equal(found.queries.terms, expected.queries.terms)
            assert set(found.encoded.timings) == {"encode", "sparsify"}
        assert found.result.indptr.tolist() == [0, 5, 10]


def test_what_no_recording_holds_runs_kernel_by_kernel(together, single, monkeypatch, few_sizes):
    plan, made = DevicePlan(single, together.index), TapeRecorder()
    plan._recorded = RecordedEncodings(None, None, torch.device("cpu"), made)
    plan._recorded._recordings = {TextSize(2, 16): None}
    together.index.tensors.recorded = RecordedSearches(None, torch.device("cpu"), made)
    try:
        long = single.tokenize(["where do the rivers of the north go at night " * 3], "query")
        assert len(long.ids[0]) > 16
        three, two = single.tokenize(TEXTS[:3], "query"), single.tokenize(["iron", "sun"], "query")
        for tokens, kind, k in (
            (long, "query", 5), (three, "query", 5), (two, "document", 5), (two, "query", 11),
        ):  # fmt: skip
            assert len(plan.rank(tokens, kind, k).encoded.vectors) == len(tokens)
    finally:
        together.index.tensors.recorded = None


def test_an_encoder_replays_queries_by_itself_where_no_index_shares_its_device(
    single, monkeypatch, few_sizes
):
    encoder = copy(single)
    truth = single.encode(["iron", "sunlight in summer"], "query")
    force_triton(monkeypatch)
    made = TapeRecorder()
    encoder.record(made)
    found = encoder.encode(["iron", "sunlight in summer"], "query")
    assert made.replays == 1
    assert_close(found.vectors, truth.vectors)
    np.testing.assert_array_equal(found.tokens, truth.tokens)
    np.testing.assert_array_equal(found.dropped_terms, truth.dropped_terms)
    assert encoder.encode(["iron"], "document").vectors.row(0)[0].size
    assert made.replays == 1
