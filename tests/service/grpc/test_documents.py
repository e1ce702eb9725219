"""DocumentService over gRPC, on an index that is open for writing."""

import queue
import threading

import grpc
import pytest

from csplade.client.async_client import AsyncClient
from csplade.client.client import Client
from csplade.client.connection import ServiceError
from csplade.core.document import Document
from csplade.v1 import documents_pb2 as pb
from csplade.v1 import documents_pb2_grpc as rpc
from csplade.v1.retrieval_pb2 import Condition, Filter

NEW = Document("new", "iron bridges over cold rivers", "Bridges", {"year": 1889, "tags": ["a"]})


@pytest.fixture
def texts(writable, text_index):
    """A client of 48 texts that can be written."""
    with writable(text_index) as server, Client(server.address) as client:
        yield client


@pytest.fixture
def vectors(writable, vector_index):
    """A client of 300 vectors that can be written, without encoder."""
    with writable(vector_index) as server, Client(server.address) as client:
        yield client


def ids(answer):
    return [hit.id for hit in answer]


def test_a_text_is_found_at_once_replaced_and_deleted(texts):
    (created,) = texts.upsert([NEW])
    assert (created.id, created.status, created.error) == ("new", "created", None)
    answer = texts.search("iron bridges", 49, min_generation=created.version, with_document=True)
    assert answer.generation == created.version
    (hit,) = [hit for hit in answer if hit.id == "new"]
    assert hit.document == NEW
    assert hit.version == created.version
    assert texts.count() == 49

    changed = Document("new", "sunlight in summer", "Sun")
    (updated,) = texts.upsert([changed])
    assert (updated.status, updated.version > created.version) == ("updated", True)
    assert texts.get(["new"])[0].document == changed
    assert ids(texts.search("iron bridges", 49)).count("new") <= 1

    (deleted,) = texts.delete(["new"])
    assert (deleted.status, deleted.version > updated.version) == ("deleted", True)
    assert "new" not in ids(texts.search("sunlight in summer", 49))
    assert texts.get(["new"]) == [None]
    assert [one.status for one in texts.delete(["new", "never"])] == ["not_found"] * 2
    assert texts.count() == 48
    assert texts.verify("sunlight", 48)


def test_an_upserted_text_ranks_as_one_that_was_indexed(texts):
    first = texts.search("rivers in winter", 48, with_document=True)
    documents = [Document(hit.id, hit.document.text) for hit in first]  # as they were indexed
    texts.delete([one.id for one in documents])
    assert texts.count() == 48 - len(documents)
    texts.upsert(documents)
    again = texts.search("rivers in winter", 48)
    assert {hit.id: hit.integer_score for hit in again} == {
        hit.id: hit.integer_score for hit in first
    }


def test_what_is_stored_already_is_not_written_and_not_encoded(texts, encoder, monkeypatch):
    (created,) = texts.upsert([NEW])
    encoded = []
    monkeypatch.setattr(
        type(encoder), "encode_tokens", lambda *_, **__: encoded.append(1) or pytest.fail("encoded")
    )
    (same,) = texts.upsert([NEW])
    assert (same.status, same.version) == ("unchanged", created.version)
    moved = Document(NEW.id, NEW.text, NEW.title, {"year": 1890})
    (metadata_only,) = texts.upsert([moved])
    assert (metadata_only.status, metadata_only.version > created.version) == ("updated", True)
    assert texts.get(["new"])[0].document == moved
    assert not encoded


def test_a_document_that_is_not_valid_fails_alone(texts):
    stub, request = _stub(texts), pb.UpsertRequest()
    for id, values in {
        "good": {"text": "iron"},
        "two words": {"text": "iron"},
        "x" * 513: {"text": "iron"},
        "blank": {"text": " ", "title": "\n"},
        "long": {"text": "a" * 65_537},
        "list": {"text": "iron", "metadata_json": "[1]"},
        "broken": {"text": "iron", "metadata_json": "{"},
        "nan": {"text": "iron", "metadata_json": '{"a": NaN}'},
        "half": {"text": "iron", "metadata_json": '{"a": "\\ud800"}'},
        "last": {"text": "sun"},
    }.items():
        item = request.documents.add(id=id)
        for name, value in values.items():
            setattr(item.document, name, value)
    results = {one.id: one for one in stub.Upsert(request).results}
    assert list(results) == [item.id for item in request.documents]
    created = pb.WRITE_STATUS_CREATED
    assert [id for id, one in results.items() if one.status == created] == ["good", "last"]
    for id, complaint in {
        "two words": "documents[1].id: 'two words' has white space",
        "x" * 513: "documents[2].id: 513 bytes; at most 512",
        "blank": "neither a vector nor a text",
        "long": "documents[4].document.text: 65537 bytes; at most 65536",
        "list": "documents[5].document.metadata_json: list given; a JSON object is needed",
        "broken": "documents[6].document.metadata_json: not JSON: ",
        "nan": "NaN is not a number of JSON",
        "half": "documents[8].document.metadata_json: not JSON: ",
    }.items():
        assert results[id].status == pb.WRITE_STATUS_FAILED
        assert results[id].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0], id
        assert complaint in results[id].error.message
    assert texts.count() == 50


def test_ready_vectors_are_written_and_read_back(vectors):
    step = vectors.info().index["document_scale"]
    weights = {3: 20 * step, 499: 5 * step}
    (created,) = vectors.upsert([Document("mine", "")], [weights])
    assert created.status == "created"
    (stored,) = vectors.get(["mine"], with_vector=True)
    assert stored.vector == pytest.approx(weights)
    assert (stored.version, stored.document) == (created.version, Document("mine", ""))
    assert vectors.get(["mine"])[0].vector == {}
    answer = vectors.search({3: 1.0}, 300, explain=True)
    (hit,) = [hit for hit in answer if hit.id == "mine"]
    assert [one.document_impact for one in hit.contributions] == [20]
    (same,) = vectors.upsert([Document("mine", "")], [weights])
    assert same.status == "unchanged"
    (other,) = vectors.upsert([Document("mine", "")], [{3: 40 * step}])
    assert other.status == "updated"
    assert vectors.get(["mine"], with_vector=True)[0].vector == pytest.approx({3: 40 * step})
    assert vectors.verify({3: 1.0}, 301)
    assert vectors.upsert([Document("mine", "")], [{}])[0].status == "updated"
    assert "mine" not in ids(vectors.search({3: 1.0}, 301))


@pytest.mark.parametrize(
    ("vector", "complaint"),
    [
        ({"indices": [500], "values": [1.0]}, "vector: 1 of its terms are not in the vocabulary"),
        ({"indices": [1, 1], "values": [1.0, 1.0]}, "vector.indices[1]: 1 is repeated"),
        ({"indices": [1], "values": [-1.0]}, "vector.values[0]: -1.0 is not allowed"),
        ({"indices": [1, 2], "values": [1.0]}, "vector.indices: 2 terms but 1 in"),
        (
            {"tokens": ["iron"], "values": [1.0]},
            "vector.tokens: this index was built from numbered",
        ),
    ],
)
def test_vectors_that_are_not_valid_fail(vectors, vector, complaint):
    item = pb.UpsertItem(id="a")
    item.vector.SetInParent()
    for name, values in vector.items():
        getattr(item.vector, name).extend(values)
    (result,) = _stub(vectors).Upsert(pb.UpsertRequest(documents=[item])).results
    assert result.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert f"documents[0].{complaint}" in result.error.message
    assert vectors.count() == 300


def test_a_text_without_encoder_fails_and_a_stored_vector_stays(vectors):
    results = vectors.upsert([Document("v7", "", metadata={"a": 1}), Document("v8", "a text")])
    assert [one.status for one in results] == ["updated", "failed"]
    assert results[1].error.code == "FAILED_PRECONDITION"
    assert "no encoder is loaded; send a vector" in results[1].error.details
    kept, _ = vectors.get(["v7", "v8"])
    assert kept.document.metadata == {"a": 1}
    assert vectors.verify({3: 1.0}, 300)


def test_conditional_writes(texts):
    results = texts.upsert([NEW, Document("d0", "rivers")], if_version=0)
    assert [one.status for one in results] == ["created", "failed"]
    assert (results[1].error.code, results[1].version) == ("ABORTED", 1)
    version = results[0].version
    (stale,) = texts.upsert([Document("new", "stale")], if_version=version + 1)
    assert (stale.status, stale.version, stale.error.code) == ("failed", version, "ABORTED")
    (fits,) = texts.upsert([Document("new", "fits")], if_version=version)
    assert fits.status == "updated"
    (late,) = texts.delete(["new"], if_version=version)
    assert (late.status, late.error.code) == ("failed", "ABORTED")
    (gone,) = texts.delete(["new"], if_version=fits.version)
    assert gone.status == "deleted"


def test_the_same_id_twice_in_one_call_is_written_in_order(texts):
    first, second = Document("d0", "iron"), Document("d0", "sunlight and birds")
    stored = texts.get(["d0"])[0].document
    results = texts.upsert([first, second, stored])
    assert [one.status for one in results] == ["updated"] * 3
    assert texts.get(["d0"])[0].document == stored
    assert texts.count() == 48
    assert texts.verify("iron", 48)


def test_a_stream_answers_in_order_and_survives_a_request_that_fails(texts):
    documents = [Document(f"s{i}", f"page {i} about iron") for i in range(150)]
    results = list(texts.upsert_many(iter(documents), batch=40))
    assert [(one.id, one.status) for one in results] == [(one.id, "created") for one in documents]
    assert texts.count() == 198
    empty, good = pb.UpsertRequest(), pb.UpsertRequest()
    good.documents.add(id="after").document.text = "iron"
    first, second = _stub(texts).UpsertStream(iter([empty, good]))
    assert "documents: 0 documents; 1 to 1000 allowed" in first.error.message
    assert second.response.results[0].status == pb.WRITE_STATUS_CREATED


def test_draining_ends_a_stream_after_its_last_acknowledgement(writable, text_index):
    sent, request = queue.SimpleQueue(), pb.UpsertRequest()
    request.documents.add(id="new").document.text = "iron"
    with writable(text_index, server__lame_duck_seconds=0) as server:
        channel = grpc.insecure_channel(server.address)
        answers = rpc.DocumentServiceStub(channel).UpsertStream(iter(sent.get, None))
        sent.put(request)
        assert next(answers).response.results[0].status == pb.WRITE_STATUS_CREATED
    with channel, pytest.raises(grpc.RpcError) as error:
        next(answers)
    sent.put(None)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "what was answered is written" in error.value.details()
    with writable(text_index) as server, Client(server.address) as client:
        assert client.get(["new"])[0].document.text == "iron"


def test_an_exception_of_the_callers_generator_comes_after_what_was_written(texts):
    class OwnError(Exception):
        pass

    def documents():
        yield from (Document(f"s{i}", "iron") for i in range(4))
        raise OwnError

    written = []
    with pytest.raises(OwnError):
        written.extend(one.id for one in texts.upsert_many(documents(), batch=2))
    assert written == ["s0", "s1", "s2", "s3"]


def test_scroll_reads_every_document_once_by_pages(vectors):
    expected = {f"v{i}" for i in range(300)}
    for page in (1000, 7, 300, 299):
        found = [one.document.id for one in vectors.scroll(page=page)]
        assert len(found) == 300
        assert set(found) == expected
    vectors.delete(["v0", "v299"])
    vectors.upsert([Document("v5", "")], [{1: 1.0}])
    found = [one.document.id for one in vectors.scroll(page=50)]
    assert (len(found), found[-1], set(found)) == (298, "v5", expected - {"v0", "v299"})


def below(number):
    return {"must": [{"field": "number", "range": {"lt": number}}]}


def test_documents_are_counted_read_and_deleted_by_filter(writable, text_index):
    with writable(text_index) as server, Client(server.address) as client:
        assert client.count(filter=below(10)) == 10
        (moved,) = client.upsert([Document("d5", "a text", metadata={"number": 90})])
        (new,) = client.upsert([Document("new", "another", metadata={"number": 3})])
        assert [moved.status, new.status] == ["updated", "created"]
        assert client.count(filter=below(10)) == 10
        read = [one.document.id for one in client.scroll(filter=below(10), page=4)]
        assert read == ["d0", "d1", "d2", "d3", "d4", "d6", "d7", "d8", "d9", "new"]
        assert set(ids(client.search("text", 49, filter=below(10)))) <= set(read)
        assert client.delete_where(below(10)) == 10
        assert client.delete_where(below(10)) == 0
        assert client.count() == 39
        assert client.get(["d5", "new"])[1] is None
        assert list(client.scroll(filter=below(10))) == []


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (pb.DeleteRequest(filter=Filter()), "filter: it holds for every document; add a condition"),
        (
            pb.DeleteRequest(filter=Filter(must=[Condition(has_id=["d1"])]), ids=["d2"]),
            "filter: ids or if_version are set too",
        ),
        (
            pb.DeleteRequest(filter=Filter(must=[Condition(field="year", exists=True)])),
            "year",
        ),
    ],
)
def test_a_deletion_by_filter_that_is_not_valid_deletes_nothing(texts, request_, complaint):
    with pytest.raises(grpc.RpcError, match=complaint) as error:
        _stub(texts).Delete(request_)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert texts.count() == 48


def test_a_document_written_during_a_deletion_by_filter_stays(writable, text_index):
    """Between reading what matches and deleting it, another client writes one of the documents."""
    with writable(text_index) as server, Client(server.address) as client:
        writer = server._backend.collection.writer
        delete = writer.delete

        def late(ids, if_version=None):
            writer.delete = delete
            client.upsert([Document("d1", "written meanwhile", metadata={"number": 1})])
            return delete(ids, if_version)

        writer.delete = late
        assert client.delete_where(below(3)) == 2
        assert [one.document.id for one in client.scroll(filter=below(3))] == ["d1"]


def test_a_page_is_cut_to_what_may_be_sent(writable, text_index):
    with writable(text_index, server__send_bytes=2000) as server, Client(server.address) as client:
        sizes, cursor, seen = [], "", []
        while True:
            reply = _stub(client).Scroll(pb.ScrollRequest(limit=48, cursor=cursor))
            assert reply.ByteSize() <= 2000
            sizes.append(len(reply.documents))
            seen += [one.id for one in reply.documents]
            if not (cursor := reply.next_cursor):
                break
        assert sorted(seen) == sorted(f"d{i}" for i in range(48))
        assert len(sizes) > 1


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda stub: stub.Upsert(pb.UpsertRequest()), "documents: 0 documents; 1 to 1000"),
        (lambda stub: stub.Get(pb.GetRequest()), "ids: 0 ids; 1 to 1000"),
        (lambda stub: stub.Delete(pb.DeleteRequest(ids=["a"] * 1001)), "ids: 1001 ids; 1 to 1000"),
        (
            lambda stub: stub.Delete(pb.DeleteRequest(ids=["a"], if_version=0)),
            "if_version: 0 is not allowed",
        ),
        (
            lambda stub: stub.Scroll(pb.ScrollRequest(limit=0)),
            "limit: 0 is out of range; 1 to 1000",
        ),
        (lambda stub: stub.Scroll(pb.ScrollRequest(cursor="x")), "cursor: 'x' is not a cursor"),
        (lambda stub: stub.Scroll(pb.ScrollRequest(cursor="²")), "cursor: '²' is not a cursor"),
    ],
)
def test_bounds_of_a_call(texts, call, complaint):
    with pytest.raises(grpc.RpcError) as error:
        call(_stub(texts))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert complaint in error.value.details()


def test_a_generation_that_is_not_there(texts):
    (created,) = texts.upsert([NEW])
    assert texts.search("iron", min_generation=created.version).hits
    wanted = f"min_generation: {created.version + 1} is not there"
    with pytest.raises(ServiceError, match=wanted) as error:
        texts.search("iron", min_generation=created.version + 1, timeout=1.0)
    assert error.value.code == "FAILED_PRECONDITION"


def test_a_search_waits_for_the_generation_that_it_asks_for(texts):
    generation, answers = texts.search("iron").generation, []
    waiting = threading.Thread(
        target=lambda: answers.append(texts.search("iron", 49, min_generation=generation + 1))
    )
    waiting.start()
    texts.upsert([NEW])
    waiting.join(60)
    assert answers[0].generation == generation + 1
    assert "new" in ids(answers[0])


def test_keys_need_the_role_of_the_method(writable, text_index, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("reader\nwriter write\nboth search write\n")
    with writable(text_index, security__keys_file=keys) as server:

        def code_of(key, call):
            with Client(server.address, key=key) as client:
                try:
                    call(client)
                except ServiceError as error:
                    return error.code
            return "OK"

        reads = [
            lambda client: client.search("iron"),
            lambda client: client.get(["d1"]),
            lambda client: list(client.scroll()),
            lambda client: client.count(),
        ]
        writes = [
            lambda client: client.upsert([NEW]),
            lambda client: list(client.upsert_many([NEW])),
            lambda client: client.delete(["none"]),
        ]
        denied = "PERMISSION_DENIED"
        for key, may_read, may_write in (
            ("reader", "OK", denied), ("writer", denied, "OK"), ("both", "OK", "OK"),
            ("wrong", denied, denied), (None, "UNAUTHENTICATED", "UNAUTHENTICATED"),
        ):  # fmt: skip
            assert {code_of(key, call) for call in reads} == {may_read}
            assert {code_of(key, call) for call in writes} == {may_write}


def test_writes_are_kept_when_the_server_starts_again(writable, text_index):
    with writable(text_index) as server, Client(server.address) as client:
        (created,) = client.upsert([NEW])
        client.delete(["d3"])
        before = client.search("iron bridges", 48)
    with writable(text_index) as server, Client(server.address) as client:
        after = client.search("iron bridges", 48, min_generation=created.version)
        assert after.hits == before.hits
        assert client.count() == 48
        assert client.get(["new", "d3"])[0].version == created.version
        assert client.verify("iron bridges", 48)


def test_one_process_writes_at_a_time(writable, text_index):
    from csplade.core.errors import UnavailableError

    with (
        writable(text_index),
        pytest.raises(UnavailableError, match="open for writing elsewhere"),
        writable(text_index),
    ):
        pass


async def test_the_asynchronous_client_does_the_same(writable, vector_index):
    with writable(vector_index) as server:
        async with AsyncClient(server.address) as client:
            documents = [Document(f"n{i}", "") for i in range(5)]
            given = [{i: 1.0} for i in range(5)]
            streamed = [one async for one in client.upsert_many(documents, given, batch=2)]
            assert [one.status for one in streamed] == ["created"] * 5
            assert [one.status for one in await client.upsert(documents, given)] == [
                "unchanged"
            ] * 5
            assert await client.count() == 305
            assert (await client.get(["n3", "none"]))[1] is None
            assert len([one async for one in client.scroll(page=64)]) == 305
            answer = await client.search({3: 1.0}, 400, min_generation=streamed[-1].version)
            assert "n3" in ids(answer)
            assert [one.status for one in await client.delete(["n0", "none"])] == [
                "deleted",
                "not_found",
            ]


def _stub(client):
    return rpc.DocumentServiceStub(client._channel)
