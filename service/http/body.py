"""Bodies: read within bounds, parsed into messages, written from messages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from starlette.requests import Request
from starlette.types import Send

from ...core.errors import InputError
from .errors import BodyError

JSON, BINARY, LINES = "application/json", "application/proto", "application/x-ndjson"

M = TypeVar("M", bound=Message)


def body_kind(request: Request, *allowed: str) -> str:
    """Return the media type of a body.

    A page of another site cannot send these types without asking first (CORS), so it cannot use the
    service through a visitor's browser.

    Raises:
        BodyError: another type, or a compressed body.
    """
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind not in allowed:
        raise BodyError(
            415, f"content-type: {given[:60]!r} is not accepted; {' or '.join(allowed)}"
        )
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise BodyError(
            415, f"content-encoding: {encoding[:60]!r} is not accepted; send the body as it is"
        )
    return kind


async def read_body(request: Request, limit: int, rule: str = "server.receive_bytes") -> bytes:
    """Return the body.

    Args:
        request: Whose body is not read yet.
        limit: Bytes at most.
        rule: What sets the limit, for the error.

    Raises:
        BodyError: more than ``limit`` bytes; a length that says so is not read at all.
        ClientDisconnect: the caller left.
    """
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit:
        raise _too_large("body", limit, rule)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large("body", limit, rule)
    return bytes(body)


async def read_lines(request: Request, limit: int) -> AsyncIterator[tuple[int, bytes]]:
    """Yield the number, from 1, and the content of each line that is not blank.

    Raises:
        BodyError: a line of more than ``limit`` bytes.
        ClientDisconnect: the caller left.
    """
    async for lines in _arrivals(request, limit):
        for line in lines:
            yield line


async def read_line_groups(
    request: Request, limit: int, most: int
) -> AsyncIterator[list[tuple[int, bytes]]]:
    """Yield the lines of :func:`read_lines` in groups of at most ``most`` that came together."""
    async for lines in _arrivals(request, limit):
        for first in range(0, len(lines), most):
            yield lines[first : first + most]


async def _arrivals(request: Request, limit: int) -> AsyncIterator[list[tuple[int, bytes]]]:
    """Yield the lines of each piece of the body that arrives."""
    rest, number = b"", 0
    async for chunk in request.stream():
        *lines, rest = (rest + chunk).split(b"\n")
        if max(map(len, (*lines, rest))) > limit:
            raise _too_large(f"line {number + 1} or later", limit, "server.receive_bytes")
        numbered = list(enumerate(lines, number + 1))
        number += len(lines)
        if kept := [(place, line) for place, line in numbered if line.strip()]:
            yield kept
    if rest.strip():
        yield [(number + 1, rest)]


def parse(body: bytes, kind: type[M], media_type: str, what: str) -> M:
    """Return a body as a message.

    Raises:
        InputError: it is none of this type; unknown fields are errors.
    """
    message = kind()
    try:
        if media_type == BINARY:
            message.ParseFromString(body)
        elif body.lstrip()[:1] != b"{":  # protobuf takes an empty list for an empty object
            raise ValueError("a JSON object is needed")
        else:
            json_format.Parse(body, message)
    except (DecodeError, RecursionError, ValueError, json_format.ParseError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{what}: not a {kind.DESCRIPTOR.name}: {reason}") from None
    return message


def write(message: Message, media_type: str) -> bytes:
    """Return a message as a body; JSON holds fields of value 0 as well."""
    if media_type == BINARY:
        return message.SerializeToString()
    tree = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    return _json(tree)


class LineResponse:
    """A response of JSON lines, which begins with the first one.

    Attributes:
        started: Whether it has begun.
    """

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self._send, self.started = send, False
        pairs = {"content-type": LINES, **headers}
        self._headers = [(name.encode(), value.encode()) for name, value in pairs.items()]

    async def write(self, line: bytes) -> None:
        """Send a line."""
        await self._start()
        await self._send({"type": "http.response.body", "body": line + b"\n", "more_body": True})

    async def write_json(self, tree: Mapping[str, Any]) -> None:
        """Send a JSON object as a line."""
        await self.write(_json(tree))

    async def end(self) -> None:
        """Send the end."""
        await self._start()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self) -> None:
        if not self.started:
            self.started = True
            await self._send(
                {"type": "http.response.start", "status": 200, "headers": self._headers}
            )


def _json(tree: Mapping[str, Any]) -> bytes:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode()


def _too_large(what: str, limit: int, rule: str) -> BodyError:
    return BodyError(413, f"{what}: more than {limit} bytes; {rule} allows {limit}")
