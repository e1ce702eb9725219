"""LocalDocuments: what is encoded, how much at a time, and what ends a whole write."""

import asyncio
import shutil

import numpy as np
import pytest

from csplade.core.document import Document
from csplade.core.errors import DeadlineError, IncompatibleError, OverloadedError
from csplade.core.results import Encoding
from csplade.engine.backend import Query
from csplade.engine.batching import BatchOptions
from csplade.engine.collection import Collection
from csplade.engine.deadline import Deadline
from csplade.engine.documents import LocalDocuments
from csplade.engine.local import LocalBackend
from csplade.engine.observer import NullObserver
from csplade.engine.policy import ENCODED_TOGETHER
from csplade.index import IndexWriter, Upsert

QUEUE = 80


class Encoder:
    """Encodes texts to one term each, when it is let."""

    def __init__(self):
        self.texts, self.most, self.inside = [], 0, 0
        self.open = asyncio.Event()
        self.open.set()
        self.failures = {}

    async def __call__(self, text, deadline):
        self.texts.append(text)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(0)
            await self.open.wait()
            if text in self.failures:
                raise self.failures[text]
            return Encoding(np.array([7], np.int32), np.array([1.0], np.float32))
        finally:
            self.inside -= 1


@pytest.fixture
def collection(text_index, encoder, tmp_path):
    shutil.copytree(text_index, tmp_path / "index")
    writer = IndexWriter.open(tmp_path / "index", threads=1)
    with Collection(writer.index, encoder, writer=writer) as collection:
        yield collection


@pytest.fixture
async def encode():
    return Encoder()


@pytest.fixture
async def documents(collection, encode):
    local = LocalDocuments(collection, encode, QUEUE, NullObserver())
    yield local
    local.close()


def texts(count, start=0):
    return [Upsert(Document(f"n{i}", f"text {i}")) for i in range(start, start + count)]


async def test_only_new_texts_are_encoded_and_few_at_a_time(documents, encode):
    written = await documents.upsert(texts(50), Deadline.after(60))
    assert [one.status for one in written.results] == ["created"] * 50
    assert encode.most == 20
    encode.texts.clear()
    again = await documents.upsert(texts(51), Deadline.after(60))
    assert [one.status for one in again.results] == ["unchanged"] * 50 + ["created"]
    assert encode.texts == ["text 50"]


async def test_a_text_that_cannot_be_encoded_fails_alone(documents, encode):
    encode.failures = {"text 1": IncompatibleError("why"), "text 3": ZeroDivisionError("inner")}
    written = await documents.upsert(texts(5), Deadline.after(60))
    created = ["created", "failed", "created", "failed", "created"]
    assert [one.status for one in written.results] == created
    assert str(written.results[1].error) == "why"
    assert written.results[3].error.code == "INTERNAL"
    assert "inner" not in str(written.results[3].error)


async def test_writes_beyond_the_queue_are_rejected_at_once(documents, encode):
    encode.open.clear()
    first = asyncio.create_task(documents.upsert(texts(60), Deadline.after(60)))
    while encode.inside < 20:
        await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="60 documents wait for the encoder and 21 more"):
        await documents.upsert(texts(21, start=60), Deadline.after(60))
    vector = np.array([3], np.int32), np.array([1.0], np.float32)
    ready = [Upsert(Document("v", ""), vector)]
    assert (await documents.upsert(ready, Deadline.after(60))).results[0].status == "created"
    encode.open.set()
    assert len((await first).results) == 60
    late = await documents.upsert(texts(21, start=60), Deadline.after(60))
    assert all(one.status == "created" for one in late.results)


@pytest.mark.parametrize("error", [OverloadedError("full", 1.0), DeadlineError("late")])
async def test_what_meets_every_document_ends_the_write(documents, encode, error):
    encode.failures = {f"text {ENCODED_TOGETHER + 1}": error}
    with pytest.raises(type(error)):
        await documents.upsert(texts(2 * ENCODED_TOGETHER), Deadline.after(60))
    assert encode.inside == 0
    # What was committed before is kept, and not encoded again.
    encode.failures, encode.texts = {}, []
    again = await documents.upsert(texts(2 * ENCODED_TOGETHER), Deadline.after(60))
    statuses = ["unchanged"] * ENCODED_TOGETHER + ["created"] * ENCODED_TOGETHER
    assert [one.status for one in again.results] == statuses
    assert len(encode.texts) == ENCODED_TOGETHER


async def test_a_deadline_ends_a_write_that_waits_for_the_encoder(documents, encode):
    encode.open.clear()
    with pytest.raises(DeadlineError):
        await documents.upsert(texts(5), Deadline.after(0.05))
    encode.open.set()
    assert encode.inside == 0
    assert (await documents.upsert(texts(5), Deadline.after(60))).results[0].status == "created"


async def test_queries_find_room_beside_documents(collection):
    """Documents take a quarter of the queue, so that queries are not rejected because of them."""
    backend = LocalBackend(collection, BatchOptions(queue=8, tasks=1), NullObserver())
    try:
        write = asyncio.create_task(backend.documents.upsert(texts(40), Deadline.after(60)))
        answers = []
        while not write.done():
            answers.append(await backend.search(Query(text="iron", k=3), Deadline.after(60)))
        assert all(one.status == "created" for one in (await write).results)
        assert all(len(one.hits) == 3 for one in answers)
    finally:
        backend._search_worker.close()
        backend._encode_worker.close()
        backend.documents.close()


async def test_a_text_that_changes_while_it_is_compared_is_encoded_late(
    documents, collection, encode
):
    """The same text is stored when it is compared, another one when it is committed."""
    kept = Document("n0", "text 0", metadata={"a": 1})
    await documents.upsert(texts(1), Deadline.after(60))
    compare = collection.writer.needs_vector

    def needs_vector(given):
        found = compare(given)
        vector = np.array([3], np.int32), np.array([1.0], np.float32)
        collection.writer.upsert([Upsert(Document("n0", "another text"), vector)])
        return found

    collection.writer.needs_vector = needs_vector
    encode.texts.clear()
    (result,) = (await documents.upsert([Upsert(kept)], Deadline.after(60))).results
    assert (result.status, encode.texts) == ("updated", ["text 0"])
    (stored,), _ = await documents.get(["n0"], Deadline.after(60), vectors=True)
    assert (stored.document, list(stored.terms)) == (kept, [7])
