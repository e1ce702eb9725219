"""Uploaded collections: bounds on number, size and life."""

import asyncio
import json

import pytest

from csplade.core.errors import IncompatibleError, InputError, NotFoundError, OverloadedError
from csplade.engine.collection import Collection
from csplade.index import Index
from csplade.service import compose
from csplade.service.drain import Lifecycle
from csplade.service.http import temporary
from csplade.service.http.temporary import COLLECTIONS, DOCUMENTS, TemporaryCollections
from csplade.service.retrieval import Retrieval
from csplade.service.telemetry.metrics import Metrics

from ..caller import call

LINES = b'{"_id": "a", "text": "iron"}\n{"_id": "b", "text": "rivers"}\n'


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def collections(settings, text_index, encoder, clock):
    chosen, metrics = settings(text_index, scoring__threads=1), Metrics()
    served = Retrieval(chosen, metrics, compose.admission(chosen, Lifecycle(), metrics, None))
    served.backend = compose.backend(Collection(Index.open(text_index), encoder), chosen, metrics)
    made = TemporaryCollections(chosen, metrics, served, clock)
    yield made
    await made.remove_old(everything=True)
    served.backend.close()


async def test_a_collection_lives_for_a_while(collections, clock):
    name, documents = await collections.create(LINES)
    folder = collections._held[name].folder
    assert documents == 2
    assert collections.find(name).backend.info.index.documents == 2
    assert (folder / "index").is_dir()
    clock.now = temporary.LIFE_SECONDS
    with pytest.raises(NotFoundError, match="is not held; upload it again"):
        collections.find(name)
    await collections.remove_old()
    assert not folder.exists()


async def test_their_number_is_bounded(collections, clock):
    for _ in range(COLLECTIONS):
        await collections.create(LINES)
    clock.now = 100.0
    with pytest.raises(OverloadedError, match="4 are held") as rejected:
        await collections.create(LINES)
    assert rejected.value.retry_after == temporary.LIFE_SECONDS - 100
    clock.now = temporary.LIFE_SECONDS
    await collections.create(LINES)
    assert len(collections._held) == 1


async def test_one_is_indexed_at_a_time(collections):
    first = asyncio.create_task(collections.create(LINES))
    while not collections._building.locked():
        await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="another upload"):
        await collections.create(LINES)
    await first


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (b"", "upload: 0 documents; 1 to 200 allowed"),
        (b'{"_id": "a", "text": "x"}\n{', "upload:2"),
        (
            b"\n".join(
                json.dumps({"_id": str(i), "text": "x"}).encode() for i in range(DOCUMENTS + 1)
            ),
            "upload: 201 documents",
        ),
    ],
)
async def test_what_is_not_a_small_corpus_is_rejected(collections, lines, words):
    with pytest.raises(InputError, match=words) as rejected:
        await collections.create(lines)
    assert "/tmp" not in str(rejected.value)
    assert not collections._held


def test_an_upload_needs_an_encoder_and_the_right_body(serve, vector_index):
    with serve(vector_index, http__explorer=True) as server:
        path, lines = "/explore/collections", {"content_type": "application/x-ndjson"}
        reply = call(server.http_address, path, LINES, **lines)
        assert (reply.status, reply.body["code"]) == (400, "failed_precondition")
        assert call(server.http_address, path, {"a": 1}).status == 415
        assert call(server.http_address, path, b" " * (2**20 + 1), **lines).status == 413
        missing = call(server.http_address, f"{path}/upload-0/search", {"query": {"text": "a"}})
        assert (missing.status, missing.body["code"]) == (404, "not_found")


def test_the_error_of_a_backend_elsewhere_is_told(settings, vector_index):
    chosen, metrics = settings(vector_index), Metrics()
    admission = compose.admission(chosen, Lifecycle(), metrics, None)
    served = Retrieval(chosen, metrics, admission)
    collections = TemporaryCollections(chosen, metrics, served)
    with pytest.raises(IncompatibleError, match="need the encoder in this process"):
        collections._encoder()
