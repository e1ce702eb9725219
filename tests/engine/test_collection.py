import dataclasses

import numpy as np
import pytest

from csplade.core.errors import IncompatibleError, InputError
from csplade.core.vectors import SparseBatch
from csplade.engine.collection import Collection
from csplade.index import Index
from csplade.index.read.device import DeviceSearcher
from csplade.index.read.placement import Placement
from csplade.kernels.runtime.memory import WorkingMemory
from csplade.model import Encoder


@pytest.fixture(scope="module")
def engine(text_index, encoder):
    with Index.open(text_index, threads=1) as index:
        yield Collection(index, encoder)


def test_texts_rank_as_the_oracle_ranks_their_vectors(engine):
    texts = ["sunlight in summer", "iron", "where do rivers go at night"]
    queries = engine.quantize(engine.encoder.encode_query(texts), engine.index.snapshot)
    expected = engine.index.oracle(queries, 20)
    for row, answer in enumerate(engine.search(texts, 20)):
        shards, ordinals, scores = expected.row(row)
        assert [hit.integer_score for hit in answer.hits] == scores.tolist()
        assert [(hit.shard, hit.ordinal) for hit in answer.hits] == list(
            zip(shards.tolist(), ordinals.tolist(), strict=True)
        )
        assert answer.matched == expected.matched[row]
        assert [hit.id for hit in answer.hits] == [hit.document.id for hit in answer.hits]
        scale = queries.scales[row] * engine.index.manifest.document_scale
        assert answer.score_scale == scale
        assert [hit.score for hit in answer.hits] == [
            hit.integer_score * scale for hit in answer.hits
        ]
        assert set(answer.timings) == {
            "tokenize",
            "encode",
            "sparsify",
            "score",
            "select",
            "merge",
            "fetch",
        }


def test_texts_weights_and_impacts_give_the_same_hits(engine):
    texts = ["maps of the sea", "energy"]
    vectors = engine.encoder.encode_query(texts)
    impacts = engine.quantize(vectors, engine.index.snapshot)
    rankings = [
        [
            [(hit.id, hit.integer_score) for hit in answer.hits]
            for answer in engine.search(queries, 7)
        ]
        for queries in (texts, vectors, impacts)
    ]
    assert rankings[0] == rankings[1] == rankings[2]


def test_contributions_sum_to_the_score_and_are_ordered(engine):
    (answer,) = engine.search(["birds at sea"], 10, explain=True, with_document=False)
    assert len(answer.hits) == 10
    for hit in answer.hits:
        assert hit.document is None
        assert hit.contributions
        assert sum(one.product for one in hit.contributions) == hit.integer_score
        assert all(
            one.product == one.query_impact * one.document_impact for one in hit.contributions
        )
        order = [(-one.product, one.term) for one in hit.contributions]
        assert order == sorted(order)
        assert all(one.token == engine.encoder.token(one.term) for one in hit.contributions)


def test_cuts_are_counted_per_query(engine):
    long = "word " * 200
    heavy = SparseBatch.from_rows([([3], [1.0]), ([4, 5, 6], [5.12, 6.0, 0.1]), ([], [])])
    answers = engine.search(["iron", long], 3)
    assert answers[0].cut.tokens == 0
    assert answers[1].cut.tokens > 100
    assert [answer.cut.terms for answer in answers] == engine.encoder.encode(
        ["iron", long], "query"
    ).dropped_terms.tolist()
    assert [answer.cut.impacts for answer in engine.search(heavy, 3)] == [0, 0, 0]


def test_an_empty_query_matches_nothing(engine):
    (answer,) = engine.search(SparseBatch.from_rows([([], [])]), 3)
    assert (answer.hits, answer.matched, answer.postings, answer.query_terms) == ((), 0, 0, 0)
    assert engine.search([], 3) == []


def test_bounds_are_named(engine):
    with pytest.raises(InputError, match="k: 0 is out of range"):
        engine.search(["iron"], 0)
    outside = SparseBatch.from_rows([([engine.encoder.vocabulary_size], [1.0])])
    with pytest.raises(InputError, match=str(engine.encoder.vocabulary_size)):
        engine.search(outside, 3)


def test_an_index_of_another_encoder_is_refused(text_index, tiny_model_of):
    with pytest.raises(IncompatibleError, match="was built by an encoder"):
        Collection.open(text_index, model=str(tiny_model_of(logit_scale=0.25)), device="cpu")


def test_the_index_names_its_encoder(text_index, encoder):
    with Collection.open(text_index, device="cpu") as engine:
        assert engine.encoder.fingerprint == encoder.fingerprint
    with (
        Collection.open(text_index, with_encoder=False) as engine,
        pytest.raises(IncompatibleError, match="no encoder"),
    ):
        engine.search(["iron"], 1)


def test_ready_vectors_take_an_encoder_of_the_same_size_only(vector_index, string_index, encoder):
    same_size = dataclasses.replace(
        (index := Index.open(vector_index, threads=1)).manifest,
        vocabulary_size=encoder.vocabulary_size,
    )
    with pytest.raises(IncompatibleError, match="500 terms of its own"):
        Collection(index, encoder)
    index.snapshot.manifest = same_size
    assert Collection(index, encoder).info.model_fingerprint == ""
    index.close()
    with Index.open(string_index) as index, pytest.raises(IncompatibleError, match="of its own"):
        Collection(index, encoder)


def test_terms_by_token_strings(string_index):
    with Collection.open(string_index) as engine:
        assert engine.info.terms_by_token == {"iron": 0, "river": 1, "sun": 2}
        (answer,) = engine.search(SparseBatch.from_rows([([0, 1], [1.0, 0.5])]), 5, explain=True)
        assert [[one.token for one in hit.contributions] for hit in answer.hits] == [
            ["river", "iron"]
        ]
        products = [one.product for one in answer.hits[0].contributions]
        assert products == [2048 * 100, 4095 * 50]
        assert np.isclose(answer.hits[0].score, 2.0, rtol=2e-4)


def test_kernels_are_compiled_and_memory_is_taken_before_requests_come(
    text_index, encoder, monkeypatch
):
    """What the warm-ups cover is counted in tests/kernels/runtime/test_launch.py."""
    done = []
    for name in (
        "model.network.warm_up_head", "model.network.warm_up_topk", "index.read.device.warm_up",
    ):  # fmt: skip
        monkeypatch.setattr(f"csplade.{name}", lambda *_, name=name: done.append(name))
    monkeypatch.setattr(WorkingMemory, "reserve", lambda memory, device: done.append(str(device)))
    monkeypatch.setattr(Collection, "_record", lambda collection: done.append("record"))
    monkeypatch.setattr(Collection, "search", lambda *a, **b: done.append("search"))
    with Index.open(text_index, threads=1) as index:
        index.to("cpu")
        collection = Collection(index, encoder)
        monkeypatch.setattr(Collection, "_devices", {"cuda:0", "cuda:1"})
        collection.prepare()
        assert done == [
            *["index.read.device.warm_up"] * 2, "model.network.warm_up_head",
            "model.network.warm_up_topk", "record", "cuda:0", "cuda:1", "search", "search",
        ]  # fmt: skip
        done.clear()
        collection.prepare(recorded=False)
        assert "record" not in done


def test_an_index_is_checked_once_the_weights_are_there(text_index, tiny_model, monkeypatch):
    """The order decides what free memory means: the encoder leaves room for the index."""
    order = []
    placed, made = Index.load, Encoder.from_pretrained.__func__
    monkeypatch.setattr(
        Index,
        "load",
        lambda *a, **b: order.append(("index", b["memory"].total)) or placed(*a, **b),
    )

    def encoder(cls, *a, **b):
        order.append(("encoder", b["reserved_bytes"], b["memory"].total))
        return made(cls, *a, **b)

    monkeypatch.setattr(Encoder, "from_pretrained", classmethod(encoder))
    monkeypatch.setattr("csplade.engine.collection.find_devices", lambda name: ("cpu", "cpu"))
    monkeypatch.setattr("csplade.engine.collection.find_device", lambda name: "cuda:0")
    monkeypatch.setattr(Placement, "bytes_on", lambda placement, name: 77)
    with Collection.open(text_index, index_device="cuda:all", memory=WorkingMemory(300)) as opened:
        assert len(opened.index.tensors.devices) == 2
        assert opened.search(["iron"], 3)[0].hits
    assert order == [("encoder", 77, 300), ("index", 300)]


def test_queries_are_recorded_where_they_run(text_index, encoder, monkeypatch, caplog):
    done = []
    monkeypatch.setattr("csplade.kernels.runtime.graph.recorder", lambda device: "recorder")
    monkeypatch.setattr(Collection, "_devices", {"cuda:0"})
    monkeypatch.setattr(WorkingMemory, "reserve", lambda *_: None)
    for name in (
        "engine.device_plan.DevicePlan",
        "index.read.device.DeviceSearcher",
        "model.encoder.Encoder",
    ):
        monkeypatch.setattr(
            f"csplade.{name}.record", lambda *a, name=name: done.append((name, a[1]))
        )
    with Index.open(text_index, threads=1) as index:
        index.to("cpu")
        for collection, expected in (
            (Collection(index, encoder), ["engine.device_plan.DevicePlan"]),
            (Collection(index), ["index.read.device.DeviceSearcher"]),
        ):
            done.clear()
            collection.prepare()
            assert done == [(name, "recorder") for name in expected]
        index.to("cpu")
        monkeypatch.setattr(DeviceSearcher, "recordable", False)  # as on several GPUs
        done.clear()
        Collection(index, encoder).prepare()
        assert [name for name, _ in done] == [
            "index.read.device.DeviceSearcher", "model.encoder.Encoder",
        ]  # fmt: skip
        index.snapshot.tensors = None
        done.clear()
        apart = Collection(index, encoder)
        apart.prepare()
        assert done == [("model.encoder.Encoder", "recorder")]

        def fails(*_):
            raise RuntimeError("an operation waits\nfor the device")

        monkeypatch.setattr(Encoder, "record", fails)
        apart.prepare()
        assert apart.search(["iron"], 3)[0].hits
    assert "run kernel by kernel: an operation waits" in caplog.text
