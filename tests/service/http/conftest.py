"""A server with HTTP, and a plain caller."""

import json
from dataclasses import dataclass
from http.client import HTTPConnection

import pytest

from csplade.service.grpc.server import running


@dataclass(frozen=True)
class Reply:
    """What came back; ``body`` is parsed if it is JSON."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def body(self):
        return json.loads(self.content)

    @property
    def lines(self):
        return [json.loads(line) for line in self.content.splitlines()]


def call(address, path, body=None, *, method=None, **headers) -> Reply:
    """Send one request; header names with _ for -. A dict becomes a JSON body."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, dict):
        body = json.dumps(body)
        given.setdefault("content-type", "application/json")
    connection = HTTPConnection(address, timeout=30)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, given)
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, names, response.read())
    finally:
        connection.close()


@pytest.fixture(scope="session")
def serve(settings):
    """Runs a server with HTTP on a free port, by settings."""

    def start(index, opener=None, **values):
        chosen = {"http__enabled": True, "http__port": 0, "scoring__threads": 1, **values}
        chosen = {"model__threads": 1, "model__device": "cpu", **chosen}
        given = () if opener is None else (opener,)
        return running(settings(index, **chosen), *given)

    return start


@pytest.fixture(scope="session")
def text_server(serve, text_index):
    with serve(text_index, http__explorer=True) as server:
        yield server


@pytest.fixture(scope="session")
def vector_server(serve, vector_index):
    with serve(vector_index, metrics__enabled=True) as server:
        yield server
