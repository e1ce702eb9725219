"""A plain caller of HTTP."""

import json
from dataclasses import dataclass
from http.client import HTTPConnection


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
