"""The rpcs of RetrievalService over HTTP: a request becomes a message, a message a response.

Unary calls have the shape of the Connect protocol, with JSON (the proto3 JSON mapping) or binary
messages. Many searches go through one request as NDJSON, one message a line.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...core.errors import CspladeError
from ...engine.deadline import Deadline
from ...v1 import retrieval_pb2 as pb
from ..admission import Admission, RequestContext
from ..retrieval import Retrieval
from .body import BINARY, JSON, LINES, LineResponse, body_kind, parse, read_body, read_lines, write
from .errors import error_body, error_response
from .request import DisconnectWatch, context_of

INLINE_BYTES = 16 * 1024  # larger messages are parsed and written in a thread

T = TypeVar("T")

Method = Callable[[Any, Deadline], Awaitable[Message]]
"""Answers a message of one rpc."""

CLIENT_LEFT = 499  # nobody reads it; a common number for it in logs


@dataclass(frozen=True)
class Rpc:
    """A unary rpc: its name, its path below ``/v1/``, and the type of its request."""

    name: str
    path: str
    request: type[Message]

    @property
    def function(self) -> str:
        """Its name as that of a function."""
        return self.path.replace("/", "_")

    def method(self, retrieval: Retrieval) -> Method:
        """Return the method that answers the rpc."""
        method: Method = getattr(retrieval, self.function)
        return method


UNARY = (
    Rpc("Search", "search", pb.SearchRequest),
    Rpc("SearchBatch", "search/batch", pb.SearchBatchRequest),
    Rpc("Explain", "explain", pb.ExplainRequest),
    Rpc("Encode", "encode", pb.EncodeRequest),
    Rpc("Info", "info", pb.InfoRequest),
    Rpc("Verify", "verify", pb.VerifyRequest),
)


class Transcoder:
    """Answers HTTP requests with a :class:`Retrieval`.

    Args:
        retrieval: Answers the messages.
        admission: Admits the requests.
        receive_bytes: Largest body of a unary request, and largest line of a stream.
    """

    def __init__(self, retrieval: Retrieval, admission: Admission, receive_bytes: int) -> None:
        self._retrieval, self._admission = retrieval, admission
        self._receive_bytes = receive_bytes

    def unary(
        self, rpc: Rpc, find: Callable[[Request], Method] | None = None
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return the endpoint of a unary rpc.

        Args:
            rpc: Which one.
            find: Returns what answers a request; by default that of what is served.
        """

        async def endpoint(request: Request) -> Response:
            context, problem = context_of(rpc.name, request)
            headers = {"x-request-id": context.request_id}
            watch = DisconnectWatch(request)
            try:
                with self._admission.request(context) as deadline:
                    if problem is not None:
                        raise problem
                    kind, message = await self._message(request, rpc, deadline)
                    watch.start()
                    method = rpc.method(self._retrieval) if find is None else find(request)
                    reply = await method(message, deadline)
                    content = await _apart_if_large(reply.ByteSize(), lambda: write(reply, kind))
            except CspladeError as error:
                return error_response(error, headers)
            except ClientDisconnect:
                return Response(status_code=CLIENT_LEFT)
            except asyncio.CancelledError:
                watch.absorb_cancellation()
                return Response(status_code=CLIENT_LEFT)
            finally:
                watch.stop()
            return Response(content, 200, headers, kind)

        return endpoint

    async def search_stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rank for many queries: SearchStreamRequest lines in, SearchStreamResponse lines out.

        An ASGI application. The response begins with its first line, so an error before that has
        its own status; a later one is the last line, ``{"error": ...}``.
        """
        request = Request(scope, receive)
        context, problem = context_of("SearchStream", request)
        headers = {"x-request-id": context.request_id}
        response = LineResponse(send, headers)
        watch = DisconnectWatch(request)
        try:
            with self._admission.request(context):
                if problem is not None:
                    raise problem
                body_kind(request, LINES)
                lines = read_lines(request, self._receive_bytes)

                async def read() -> pb.SearchStreamRequest | None:
                    async for number, line in lines:
                        return parse(line, pb.SearchStreamRequest, JSON, f"line {number}")
                    watch.start()
                    return None

                await self._retrieval.answer_stream(
                    read,
                    lambda message: response.write(write(message, JSON)),
                    self._deadlines(context),
                    self._admission.lifecycle.draining,
                )
        except CspladeError as error:
            if not response.started:
                return await error_response(error, headers)(scope, receive, send)
            await response.write_json({"error": error_body(error)})
        except ClientDisconnect:
            return None
        except asyncio.CancelledError:
            watch.absorb_cancellation()
            return None
        finally:
            watch.stop()
        await response.end()

    async def _message(self, request: Request, rpc: Rpc, deadline: Deadline) -> tuple[str, Message]:
        """Return the format of the body and the message in it."""
        if request.method == "GET":
            return JSON, rpc.request()
        kind = body_kind(request, JSON, BINARY)
        async with deadline.enforced():
            body = await read_body(request, self._receive_bytes)
        message = await _apart_if_large(len(body), lambda: parse(body, rpc.request, kind, "body"))
        return kind, message

    def _deadlines(self, context: RequestContext) -> Callable[[], Deadline]:
        """Return what makes the deadline of a query of a stream that begins now."""
        if context.remaining is None:
            return lambda: self._admission.deadline(None)
        end = time.monotonic() + context.remaining
        return lambda: self._admission.deadline(max(0.0, end - time.monotonic()))


async def _apart_if_large(size: int, make: Callable[[], T]) -> T:
    """Make a value here if it is small, else in a thread, which does not block the loop."""
    return make() if size <= INLINE_BYTES else await asyncio.to_thread(make)
