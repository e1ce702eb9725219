"""Documents over HTTP: the messages of gRPC, and lines of documents."""

import json

import pytest

from ..caller import call

LINES = "application/x-ndjson"
STREAM = "/v1/documents/upsert/stream"


@pytest.fixture
def address(writable, text_index):
    """Of a server of 48 texts that can be written."""
    with writable(text_index, http__enabled=True, http__port=0) as server:
        yield server.http_address


def item(id, text, **more):
    return {"id": id, "document": {"text": text}, **more}


@pytest.mark.parametrize("prefix", ["/v1/documents/{}", "/csplade.v1.DocumentService/{}"])
def test_documents_are_written_read_and_deleted(address, prefix):
    def ask(name, body):
        name = name if "csplade" in prefix else name.lower()
        reply = call(address, prefix.format(name), body)
        assert reply.status == 200, reply.content
        return reply.body

    written = ask("Upsert", {"documents": [item("a", "iron bridges"), item("b b", "iron")]})
    created, failed = written["results"]
    assert created["status"] == "WRITE_STATUS_CREATED"
    assert created["version"] == written["generation"] == "2"
    assert failed["status"] == "WRITE_STATUS_FAILED"
    assert "documents[1].id: 'b b' has white space" in failed["error"]["message"]
    (stored, none) = ask("Get", {"ids": ["a", "none"], "withVector": True})["documents"]
    assert stored["document"]["text"] == "iron bridges"
    assert stored["vector"]["indices"]
    assert none == {"id": "none", "version": "0"}
    assert ask("Count", {})["documents"] == "49"
    page = ask("Scroll", {"limit": 40})
    rest = ask("Scroll", {"limit": 40, "cursor": page["nextCursor"]})
    assert len(page["documents"]) + len(rest["documents"]) == 49
    assert rest["documents"][-1]["id"] == "a"
    assert rest["nextCursor"] == ""
    hits = call(address, "/v1/search", {"query": {"text": "iron bridges"}, "k": 49}).body["hits"]
    assert "a" in [hit["id"] for hit in hits]
    (deleted,) = ask("Delete", {"ids": ["a"]})["results"]
    assert deleted["status"] == "WRITE_STATUS_DELETED"
    assert ask("Count", {})["documents"] == "48"


def test_lines_of_documents_get_a_line_each_in_their_order(address):
    documents = [item(f"n{i}", f"page {i} on iron") for i in range(300)]
    documents[7]["id"] = "not an id"
    documents[8] = item("d1", "changed", ifVersion="9")
    body = "\n".join(json.dumps(one) for one in documents)
    reply = call(address, STREAM, body, content_type=LINES)
    assert (reply.status, reply.headers["content-type"]) == (200, LINES)
    assert [line["id"] for line in reply.lines] == [one["id"] for one in documents]
    failed = {line["id"]: line["error"] for line in reply.lines if "error" in line}
    assert set(failed) == {"not an id", "d1"}
    assert failed["d1"]["code"] == 10  # ABORTED
    assert call(address, "/v1/documents/count", {}).body["documents"] == str(48 + 298)


def test_a_line_that_is_no_document_ends_the_stream_after_what_was_written(address):
    reply = call(address, STREAM, "{broken\n", content_type=LINES)
    assert reply.status == 400
    assert reply.body["message"].startswith("line 1: not a UpsertItem: ")
    many = [json.dumps(item(f"m{i}", "iron " * 100)) for i in range(300)]
    after = json.dumps(item("after", "iron"))
    reply = call(address, STREAM, "\n".join([*many, "{broken", after, ""]), content_type=LINES)
    assert reply.status == 200
    *results, last = reply.lines
    assert last["error"]["code"] == "invalid_argument"
    assert last["error"]["message"].startswith("line 301: ")
    assert [line["id"] for line in results] == [f"m{i}" for i in range(300)]
    assert {line["status"] for line in results} == {"WRITE_STATUS_CREATED"}
    found = call(address, "/v1/documents/get", {"ids": ["m299", "after"]}).body["documents"]
    assert [one["version"] != "0" for one in found] == [True, False]


def test_a_group_that_fails_as_a_whole_has_a_failed_line_for_each_document(serve, text_index):
    with serve(text_index) as server:
        body = "\n".join(json.dumps(item(f"n{i}", "iron")) for i in range(3))
        reply = call(server.http_address, STREAM, body, content_type=LINES)
    assert [line["id"] for line in reply.lines] == ["n0", "n1", "n2"]
    assert {line["status"] for line in reply.lines} == {"WRITE_STATUS_FAILED"}
    assert "writable: false" in reply.lines[0]["error"]["message"]


def test_a_read_only_server_says_so(text_server):
    reply = call(text_server.http_address, "/v1/documents/delete", {"ids": ["d1"]})
    assert (reply.status, reply.body["code"]) == (400, "failed_precondition")
    assert "start the service with --writable" in reply.body["message"]
