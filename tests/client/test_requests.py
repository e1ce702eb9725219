"""Clients reject, before anything is sent, what no service accepts; one line says what to do."""

import grpc
import numpy as np
import pytest

from csplade.client.client import Client
from csplade.client.connection import Connection, ServiceError, is_loopback
from csplade.client.requests import search_request
from csplade.core.document import Document
from csplade.core.errors import InputError

DOCUMENT = Document("a", "a text")


@pytest.fixture(scope="module")
def client():
    """A client of a port where nothing listens: what reaches the wire is UNAVAILABLE."""
    with Client("127.0.0.1:1", timeout=5) as client:
        yield client


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda client: client.search("x", k=-1), "k: -1 is not allowed"),
        (lambda client: client.search("x", k=0), "k: 0 is not allowed"),
        (lambda client: client.search("x", min_generation=-1), "min_generation: -1 is not allowed"),
        (lambda client: client.upsert(DOCUMENT), "documents: one document given; a list"),
        (lambda client: client.upsert(["a"]), r"documents\[0\]: 'a' is not a csplade.Document"),
        (lambda client: client.upsert([DOCUMENT], []), "vectors: not as many as documents"),
        (lambda client: client.upsert([DOCUMENT], [{}, {}]), "vectors: not as many as documents"),
        (lambda client: client.upsert([DOCUMENT], [{1: -1.0}]), r"documents\[0\]: weight -1.0 of"),
        (lambda client: client.upsert([DOCUMENT], [3]), r"documents\[0\]: vector 3 is no mapping"),
        (lambda client: client.upsert([DOCUMENT], if_version=-1), "if_version: -1 is not allowed"),
        (
            lambda client: client.upsert([Document("a", "", metadata={"x": float("nan")})]),
            r"documents\[0\].metadata: not JSON",
        ),
        (lambda client: client.delete("abc"), "ids: 'abc' is not a list"),
        (lambda client: client.get(["a", 1]), r"ids\[1\]: 1 is not a string"),
        (lambda client: list(client.scroll(page=0)), "limit: 0 is not allowed"),
        (lambda client: client.search("x", k="5"), "k: '5' is not allowed"),
        (lambda client: client.search("x", k=True), "k: True is not allowed"),
        (lambda client: client.search("x", timeout=0), "timeout: 0 is not allowed"),
        (lambda client: client.search("x", timeout=-1), "timeout: -1 is not allowed"),
        (lambda client: client.search({-1: 1.0}), "query: term -1 is not allowed"),
        (lambda client: client.search({2**32: 1.0}), "query: term 4294967296 is not allowed"),
        (lambda client: client.search({1: 1.0, "a": 2.0}), "query: term 'a' is not allowed"),
        (lambda client: client.search({1: float("nan")}), "weight nan of term 1"),
        (lambda client: client.search({1: 1e39}), r"weight 1e\+39 of term 1"),
        (lambda client: client.search({1: -1.0}), "weight -1.0 of term 1"),
        (lambda client: client.search({1: "2"}), "weight '2' of term 1"),
        (lambda client: client.search({1: None}), "weight None of term 1"),
        (lambda client: client.search("caf\ud800"), "query: .* is not valid Unicode"),
        (lambda client: client.search(b"owl"), "query: b'owl' is not allowed"),
        (lambda client: client.search(None), "query: None is not allowed"),
        (lambda client: client.search([(1, 1.0)]), "query: .* is not allowed"),
        (lambda client: client.encode(["x"], kind="passage"), "kind: 'passage' is unknown"),
        (lambda client: client.encode(["x"], kind="QUERY"), "kind: 'QUERY' is unknown"),
        (lambda client: client.encode("missing bag"), "texts: 'missing bag' is not a list"),
        (lambda client: client.encode(["a", None]), r"texts\[1\]: None is not a string"),
        (lambda client: client.encode(["caf\ud800"]), r"texts\[0\]: .* is not valid Unicode"),
        (lambda client: list(client.search_many("lost")), "queries: 'lost' is one query"),
        (lambda client: list(client.search_many({1: 1.0})), "queries: {1: 1.0} is one query"),
        (lambda client: list(client.search_many(["a"], k=0)), "k: 0 is not allowed"),
        (lambda client: client.verify("x", k=0), "k: 0 is not allowed"),
    ],
)
def test_what_no_service_accepts_is_not_sent(client, call, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        call(client)
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_are_numbers():
    message = search_request({np.int64(7): np.float32(0.5), 3: 1}, 5)
    vector = message.query.vector
    assert list(zip(vector.indices, vector.values, strict=True)) == [(7, 0.5), (3, 1.0)]


def test_a_long_value_is_cut_in_the_message(client):
    with pytest.raises(InputError) as error:
        client.encode(["x"], kind="k" * 10_000)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_client_needs_a_timeout_above_zero(timeout):
    with pytest.raises(InputError, match="timeout"):
        Client("127.0.0.1:1", timeout=timeout)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"ca: .*missing\.pem: No such file"):
        Client("127.0.0.1:1", ca=tmp_path / "missing.pem")


def test_no_proxy_stands_between_a_client_and_its_own_machine(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Client("127.0.0.1:1", timeout=5) as client, pytest.raises(ServiceError) as error:
        client.search("x")
    assert ":9" not in error.value.details
    assert "proxy" not in error.value.details


class Unreachable(grpc.RpcError):
    """What grpcio raises if nothing answers."""

    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "failed to connect"

    def trailing_metadata(self):
        return ()


def test_an_error_names_the_proxy_that_stands_between(monkeypatch):
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert Connection("example.org:1").error(Unreachable()).details == "failed to connect"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert (
        "http_proxy=http://127.0.0.1:9" in Connection("example.org:1").error(Unreachable()).details
    )
    assert "proxy" not in Connection("localhost:1").error(Unreachable()).details


@pytest.mark.parametrize(
    ("target", "loopback"),
    [
        ("localhost:50051", True),
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("unix:/run/csplade.sock", True),
        ("example.org:443", False),
        ("10.0.0.1:1", False),
    ],
)
def test_loopback_targets(target, loopback):
    assert is_loopback(target) is loopback
    assert (("grpc.enable_http_proxy", 0) in Connection(target).options) is loopback


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offset": -1}, "offset: -1 is not allowed; a whole number of at least 0"),
        ({"score_threshold": float("nan")}, "score_threshold: nan is not a finite number"),
        (
            {"filter": {"must": [{"field": "a", "match": {"any": [float("inf")]}}]}},
            "inf is not finite",
        ),
        ({"filter": {"must": [{"has_id": ["\ud800"]}]}}, "filter: "),
        ({"filter": "year > 5"}, "filter: 'year > 5' is not an object"),
    ],
)
def test_options_that_no_service_accepts_are_rejected(options, message):
    with pytest.raises(InputError, match=message):
        search_request("iron", 5, **options)


def test_large_integers_of_filters_stay_exact():
    wanted = {"must": [{"field": "year", "match": {"any": [2**63 - 1, 5]}}]}
    message = search_request("iron", 5, filter=wanted).filter
    assert [one.WhichOneof("kind") for one in message.must[0].match.any] == [
        "string_value",
        "number_value",
    ]
