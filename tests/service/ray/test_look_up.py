"""Queries that a table makes are encoded in the ingress, the others by the encoder's replicas."""

from dataclasses import replace

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from csplade.engine.backend import Query
from csplade.engine.collection import Collection
from csplade.engine.deadline import Deadline
from csplade.engine.policy import INLINE_TEXT
from csplade.ingest.build import build_from_corpus
from csplade.model import Encoder
from csplade.service.ray.backend import RayBackend
from csplade.service.ray.deployment import DeploymentClient
from csplade.service.ray.look_up import LookUp
from csplade.service.ray.replicas import EncoderReplica, ShardReplica
from csplade.service.telemetry.metrics import Metrics

from .test_backend import Handle

TEXTS = ("the river", "a sea", "rain falls")


@pytest.fixture
def lexical(tiny_model_of, tmp_path):
    """An index of an encoder whose queries are looked up."""
    encoder = Encoder.from_pretrained(tiny_model_of(query_encoder="lexical"), device="cpu")
    lines = [f'{{"_id": "{i}", "text": "{text}"}}\n' for i, text in enumerate(TEXTS)]
    (tmp_path / "corpus.jsonl").write_text("".join(lines))
    build_from_corpus(tmp_path / "corpus.jsonl", tmp_path / "index", encoder)
    return tmp_path / "index"


@pytest.fixture
async def started(lexical, settings):
    """A backend whose deployments live here, and the handle of its encoder."""
    chosen, metrics = settings(lexical, scoring__threads=1, model__device="cpu"), Metrics()
    encoder, shard = Handle(EncoderReplica(chosen)), Handle(ShardReplica(chosen, 0))
    for handle in (encoder, shard):
        await handle.replica.reconfigure({})

    async def start():
        deployments = DeploymentClient("encoder", encoder), [DeploymentClient("shard 0", shard)]
        backend = RayBackend(chosen, metrics, *deployments)
        await backend.refresh()
        encoder.calls = []
        return backend

    yield start, encoder, metrics
    for handle in (encoder, shard):
        handle.replica._versions.newest.close()


async def test_short_queries_are_encoded_in_the_ingress(started, lexical):
    start, encoder, metrics = started
    backend = await start()
    long = "river " * (INLINE_TEXT // 6 + 1)
    with Collection.open(lexical) as engine:
        for text, calls in (("the river", []), (long, ["encode"])):
            (alone,) = engine.search([text], 3, with_document=False)
            answer = await backend.search(Query(text=text, k=3), Deadline.after(10))
            assert answer.hits == alone.hits
            assert (answer.query_terms, answer.cut) == (alone.query_terms, alone.cut)
            assert answer.timings["sparsify"] > 0
            assert encoder.calls == calls
    label = {"stage": "tokenize"}
    assert metrics.registry.get_sample_value("csplade_stage_seconds_count", label) == 1


async def test_the_replicas_encode_where_the_ingress_has_another_model(
    started, monkeypatch, caplog
):
    start, encoder, _ = started
    load = Encoder.from_pretrained

    def other(*arguments, **options):
        found = load(*arguments, **options)
        found.fingerprint = "of another one"
        return found

    monkeypatch.setattr(Encoder, "from_pretrained", other)
    backend = await start()
    assert "the ingress finds another model" in caplog.text
    assert (await backend.search(Query(text="the river", k=3), Deadline.after(10))).hits
    assert encoder.calls == ["encode"]


async def test_the_replicas_encode_where_the_ingress_has_no_model(started, caplog, tmp_path):
    start, _, metrics = started
    info = (await start()).info.encoder
    assert LookUp.load(replace(info, name=str(tmp_path / "nothing")), metrics) is None
    assert "the ingress has no model" in caplog.text


async def test_a_network_is_not_loaded_in_the_ingress(started):
    start, _, metrics = started
    info = (await start()).info.encoder
    assert LookUp.load(replace(info, query_encoder="model"), metrics) is None
