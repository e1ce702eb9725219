import dataclasses

import numpy as np
import pytest
import torch

from csplade.core.errors import InputError
from csplade.core.filters import Filter, Range
from csplade.engine import device_plan
from csplade.engine.backend import Query
from csplade.engine.collection import Collection
from csplade.engine.observer import NullObserver
from csplade.engine.plan import Plan, SearchTask
from csplade.index import Index
from csplade.model import Encoder

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
    ranked = device_plan.rank(together.encoder, together.index, tokens, "query", 20)
    encoded = plain.encoder.encode_tokens(tokens, "query")
    queries = plain.quantize(encoded.vectors)
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
    monkeypatch.setattr(
        device_plan, "rank", lambda *a, rank=device_plan.rank: ranked.append(len(a[2])) or rank(*a)
    )

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
        tokens = encoder.tokenize(TEXTS, "query")
        truth = device_plan.rank(
            encoder, index, tokens, "query", 20
        )  # compiles what there is to compile
        waits = []
        fetch = device_plan.fetch

        def counted(*tensors):
            torch.cuda.set_sync_debug_mode("default")
            waits.append(len(tensors))
            return fetch(*tensors)

        try:
            device_plan.fetch = counted
            torch.cuda.set_sync_debug_mode("error")  # any wait before the one copy raises
            again = device_plan.rank(encoder, index, tokens, "query", 20)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            device_plan.fetch = fetch
        assert waits == [10]
        np.testing.assert_array_equal(again.result.scores, truth.result.scores)
        index.tensors = None
        found = index.search(truth.queries, 20)
        for name in ("indptr", "shards", "ordinals", "scores", "matched", "postings"):
            np.testing.assert_array_equal(getattr(truth.result, name), getattr(found, name))
