"""HTTP answers as gRPC does: same messages, same errors, same limits."""

import asyncio
import json
import socket
import threading
import urllib.request

import pytest
from google.protobuf import json_format

from csplade.client.client import Client
from csplade.v1 import retrieval_pb2 as pb

from ..caller import call

RPC = "/csplade.v1.RetrievalService"
QUERY = {"query": {"text": "rivers in winter"}, "k": 7, "explain": True, "withDocument": True}


def vector(query, **options):
    return {
        "query": {"vector": {"indices": list(query), "values": list(query.values())}},
        **options,
    }


@pytest.mark.parametrize("path", [f"{RPC}/Search", "/v1/search"])
def test_a_search_is_that_of_grpc(text_server, path):
    reply = call(text_server.http_address, path, QUERY, x_request_id="mine")
    assert (reply.status, reply.headers["x-request-id"]) == (200, "mine")
    found = json_format.ParseDict(reply.body, pb.SearchResponse())
    with Client(text_server.address) as client:
        answer = client.search("rivers in winter", 7, explain=True, with_document=True)
    assert [(hit.id, hit.integer_score) for hit in found.hits] == [
        (hit.id, hit.integer_score) for hit in answer
    ]
    assert found.matched_documents == answer.matched
    for hit, other in zip(found.hits, answer, strict=True):
        assert sum(one.product for one in hit.contributions) == hit.integer_score
        assert hit.document.text == other.document.text


def test_binary_messages_pass_as_json_does(text_server):
    request = json_format.ParseDict(QUERY, pb.SearchRequest())
    reply = call(
        text_server.http_address,
        f"{RPC}/Search",
        request.SerializeToString(),
        content_type="application/proto",
    )
    assert reply.headers["content-type"] == "application/proto"
    found = pb.SearchResponse.FromString(reply.content)
    json_reply = call(text_server.http_address, "/v1/search", QUERY).body
    assert [hit.id for hit in found.hits] == [hit["id"] for hit in json_reply["hits"]]


@pytest.mark.parametrize("path", [f"{RPC}/SearchBatch", "/v1/search/batch"])
def test_a_batch_answers_each_query_or_says_why_not(text_server, path):
    address, plain = text_server.http_address, {"query": QUERY["query"], "k": 7, "columns": True}
    reply = call(address, path, {"requests": [QUERY, {"k": 3}, plain]})
    rows, failed, columns = reply.body["outcomes"]
    alone = call(address, "/v1/search", QUERY).body
    assert rows["response"]["hits"] == alone["hits"]
    assert columns["response"]["columns"] == {
        "ids": [hit["id"] for hit in alone["hits"]],
        "integerScores": [hit["integerScore"] for hit in alone["hits"]],
        "shards": [hit["shard"] for hit in alone["hits"]],
        "versions": [hit["version"] for hit in alone["hits"]],
    }
    assert failed["error"]["code"] == 3
    assert failed["error"]["message"].startswith("query: not set")


def test_a_filter_is_plain_json(text_server):
    address = text_server.http_address
    number = {"field": "number", "range": {"gte": 10, "lt": 13}}
    asked = {
        "query": QUERY["query"],
        "filter": {"must": [number], "must_not": [{"has_id": ["d11"]}]},
        "score_threshold": 0.0,
        "with_vector": True,
    }
    reply = call(address, "/v1/search", asked).body
    assert sorted(hit["id"] for hit in reply["hits"]) == ["d10", "d12"]
    assert reply["matchedDocuments"] == "2"
    assert all(len(hit["vector"]["indices"]) > 10 for hit in reply["hits"])
    camel = {**asked, "filter": {"must": [number], "mustNot": [{"hasId": ["d11"]}]}, "offset": 1}
    assert call(address, "/v1/search", camel).body["hits"] == reply["hits"][1:]
    assert call(address, "/v1/verify", {"query": asked["query"], "filter": asked["filter"]}).body[
        "identical"
    ]
    for condition, message in (
        ({"field": "number", "match": {"any": [None]}}, "None is not a string, a number"),
        ({"field": "number", "match": {"any": [{"a": 1}]}}, "is not a string, a number"),
        ({"field": "color", "exists": True}, "field 'color' is not declared"),
    ):
        refused = call(address, "/v1/search", {**asked, "filter": {"must": [condition]}})
        assert refused.status == 400
        assert message in refused.body["message"]


def test_encode_info_and_verify_answer(text_server):
    address = text_server.http_address
    given = {"texts": ["iron", ""], "kind": "TEXT_KIND_QUERY", "decode": True}
    encoded = call(address, "/v1/encode", given).body["encodings"]
    assert [len(one["vector"]["indices"]) > 0 for one in encoded] == [True, False]
    assert len(encoded[0]["vector"]["tokens"]) == len(encoded[0]["vector"]["values"])
    info = call(address, "/v1/info").body
    assert info["index"]["documents"] == "48"
    assert call(address, f"{RPC}/Info", {}).body == info
    verified = call(address, "/v1/verify", {"query": {"text": "iron"}, "k": 5}).body
    assert verified["identical"] is True


BAD = [
    ({"k": 3}, "query: not set"),
    ({"query": {"text": " "}}, "query.text: blank"),
    ({"query": {"text": "iron"}, "k": 0}, "k: 0 is out of range; 1 to 10000"),
    ({"query": {"text": "iron"}, "kk": 1}, "kk"),
    ({"query": {"text": "iron"}, "k": -1}, "k"),
    (b"{", "body: not a SearchRequest"),
    (b"[" * 100_000, "body: not a SearchRequest"),
    (b'{"query": {"text": "\\ud800"}}', "body: not a SearchRequest"),
    (b"\xff", "body: not a SearchRequest"),
    (b"[]", "body: not a SearchRequest"),
    (b'{"query": {"vector": {"indices": [1], "values": [1e999]}}}', "body: not a SearchRequest"),
    (b'{"query": {"vector": {"indices": [1], "values": ["NaN"]}}}', "query.vector.values[0]: nan"),
]


@pytest.mark.parametrize(("body", "words"), BAD)
def test_a_bad_request_is_told_what_is_wrong(text_server, body, words):
    reply = call(text_server.http_address, "/v1/search", body, content_type="application/json")
    assert (reply.status, reply.body["code"]) == (400, "invalid_argument")
    assert words in reply.body["message"]
    assert "\n" not in reply.body["message"]


def test_unknown_paths_methods_types_and_hosts_are_rejected(text_server):
    address = text_server.http_address
    assert call(address, "/v1/nothing", {}).status == 404
    assert call(address, "/v1/search").status == 405
    assert call(address, "/v1/search", b"{}", content_type="text/plain").status == 415
    zipped = {"content_type": "application/json", "content_encoding": "gzip"}
    assert call(address, "/v1/search", b"{}", **zipped).status == 415
    reply = call(address, "/v1/info", Host="evil.example:80")
    assert (reply.status, reply.body["code"]) == (400, "invalid_argument")
    assert call(address, "/healthz", Host="10.0.0.7").status == 200


@pytest.mark.parametrize(
    "header",
    [{"connect_timeout_ms": "0"}, {"x_timeout_seconds": "0"}, {"x_timeout_seconds": "1e-9"}],
)
def test_a_deadline_that_passed_is_told(text_server, header):
    reply = call(text_server.http_address, "/v1/search", QUERY, **header)
    assert (reply.status, reply.body["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize(
    "header",
    [{"connect_timeout_ms": "1.5"}, {"x_timeout_seconds": "nan"}, {"x_timeout_seconds": "-1"}],
)
def test_a_timeout_that_is_none_is_rejected(text_server, header):
    reply = call(text_server.http_address, "/v1/search", QUERY, **header)
    assert (reply.status, reply.body["code"]) == (400, "invalid_argument")


def test_a_body_beyond_the_limit_is_not_read(serve, vector_index):
    with serve(vector_index, server__receive_bytes=1024) as server:
        head = "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        host, port = server.http_address.split(":")
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(f"{head}Content-Length: 1000000000\r\n\r\n".encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 413")
        with socket.create_connection((host, int(port)), 10) as connection:
            chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
            connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + 2 * chunk)
            assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_an_answer_beyond_the_limit_is_an_error(serve, vector_index, random_queries):
    with serve(vector_index, server__send_bytes=1024) as server:
        reply = call(server.http_address, "/v1/search", vector(random_queries[0], k=300))
        assert reply.status == 400
        assert "server.send_bytes allows 1024" in reply.body["message"]


def test_keys_are_checked_before_the_body(serve, vector_index, random_queries, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("open-sesame\n")
    with serve(vector_index, security__keys_file=keys) as server:
        address, body = server.http_address, vector(random_queries[0])
        missing = call(address, "/v1/search", b"no JSON", content_type="application/json")
        assert (missing.status, missing.body["code"]) == (401, "unauthenticated")
        assert missing.headers["www-authenticate"] == "Bearer"
        wrong = call(address, "/v1/search", body, authorization="Bearer no")
        assert (wrong.status, wrong.body["code"]) == (403, "permission_denied")
        assert call(address, "/v1/search", body, authorization="Bearer open-sesame").status == 200
        assert call(address, "/readyz").status == 200


def test_cors_is_off_unless_set(serve, vector_server, vector_index):
    preflight = {
        "method": "OPTIONS",
        "origin": "https://a.example",
        "access_control_request_method": "POST",
        "access_control_request_headers": "content-type,authorization",
    }
    closed = call(vector_server.http_address, "/v1/search", **preflight)
    assert "access-control-allow-origin" not in closed.headers
    with serve(vector_index, http__cors_origins=["https://a.example"]) as server:
        opened = call(server.http_address, "/v1/search", **preflight)
        assert opened.headers["access-control-allow-origin"] == "https://a.example"
        other = call(
            server.http_address, "/v1/search", **preflight | {"origin": "https://b.example"}
        )
        assert "access-control-allow-origin" not in other.headers


def lines(queries, **options):
    items = [
        {"sequence": number, "request": vector(query, **options)}
        for number, query in enumerate(queries)
    ]
    return "\n".join(map(json.dumps, items))


def test_a_stream_answers_every_line(vector_server, random_queries):
    reply = call(
        vector_server.http_address,
        "/v1/search/stream",
        lines(random_queries, k=5),
        content_type="application/x-ndjson",
    )
    assert reply.headers["content-type"] == "application/x-ndjson"
    with Client(vector_server.address) as client:
        expected = [
            [(hit.id, hit.integer_score) for hit in answer]
            for answer in client.search_many(random_queries, 5)
        ]
    found = {int(line["sequence"]): line["response"]["hits"] for line in reply.lines}
    assert [
        [(hit["id"], hit["integerScore"]) for hit in found[number]]
        for number in range(len(random_queries))
    ] == expected


def test_a_query_of_a_stream_fails_alone_and_a_broken_line_ends_it(vector_server, random_queries):
    good, bad = lines(random_queries[:1], k=3), json.dumps({"sequence": 9, "request": {"k": 3}})
    reply = call(
        vector_server.http_address,
        "/v1/search/stream",
        f"{good}\n\n{bad}\n{{nothing\n{good}",
        content_type="application/x-ndjson",
    )
    *answers, last = reply.lines
    outcomes = {int(one["sequence"]): one for one in answers}
    assert outcomes.keys() == {0, 9}
    assert outcomes[9]["error"]["message"].startswith("query: not set")
    assert last["error"]["code"] == "invalid_argument"
    assert last["error"]["message"].startswith("line 4: not a SearchStreamRequest")


def test_an_empty_stream_has_no_lines(vector_server):
    reply = call(
        vector_server.http_address, "/v1/search/stream", b"", content_type="application/x-ndjson"
    )
    assert (reply.status, reply.content) == (200, b"")


def test_requests_are_counted_whatever_the_transport(vector_server, random_queries):
    call(vector_server.http_address, "/v1/search", vector(random_queries[0]))
    call(vector_server.http_address, "/v1/search", {"k": 1})
    with urllib.request.urlopen(f"http://{vector_server.metrics_address}/metrics") as response:
        text = response.read().decode()
    assert 'csplade_requests_total{code="INVALID_ARGUMENT",method="Search"}' in text
    assert 'csplade_requests_total{code="OK",method="Search"}' in text


def test_a_full_server_tells_when_to_retry(serve, held, vector_index, random_queries):
    body = vector(random_queries[0])
    with serve(vector_index, held.opener, limits__in_flight=1, limits__batch_searches=1) as server:
        held.index.entered.clear()
        held.index.release.clear()
        first = threading.Thread(target=call, args=(server.http_address, "/v1/search", body))
        first.start()
        assert held.index.entered.wait(30)
        reply = call(server.http_address, "/v1/search", body)
        held.index.release.set()
        first.join()
    assert (reply.status, reply.body["code"]) == (429, "resource_exhausted")
    assert reply.headers["retry-after"] == "1"
    assert reply.body["retry_after"] == 0.1


def test_a_caller_that_leaves_is_counted_as_cancelled(serve, held, vector_index, random_queries):
    with serve(vector_index, held.opener) as server:
        host, port = server.http_address.split(":")
        body = json.dumps(vector(random_queries[0])).encode()
        held.index.entered.clear()
        held.index.release.clear()
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(
                b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            assert held.index.entered.wait(30)
        cancelled = server.metrics.registry.get_sample_value
        labels = {"method": "Search", "code": "CANCELLED"}
        while cancelled("csplade_requests_total", labels) is None:
            threading.Event().wait(0.01)
        held.index.release.set()


async def test_loading_and_draining_are_unavailable(settings, held, vector_index):
    from csplade.service.grpc.server import Server

    held.index.release.set()
    server = Server(settings(vector_index, http__enabled=True, http__port=0), held.opener)

    async def get(path):
        return await asyncio.to_thread(call, server.http_address, path)

    async def check_unavailable():
        for path in ("/readyz", "/v1/info"):
            reply = await get(path)
            assert (reply.status, reply.body["code"]) == (503, "unavailable")
        assert (await get("/healthz")).status == 200

    await server.start()
    try:
        await check_unavailable()
        await server.load()
        assert (await get("/readyz")).status == 200
        await server.drain()
        await check_unavailable()
    finally:
        await server.stop()
