"""The rpcs over HTTP: a request becomes a message, a message a response.

Unary calls have the shape of the Connect protocol, with JSON (the proto3 JSON mapping) or binary
messages. Many searches go through one request as NDJSON, one message a line; many documents
likewise, one document a line.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ...core.errors import CspladeError, InputError
from ...engine.deadline import Deadline
from ...v1 import documents_pb2 as document_pb
from ...v1 import retrieval_pb2 as pb
from ..admission import Admission, RequestContext
from ..documents import Documents
from ..retrieval import Retrieval
from ..settings import Settings
from .body import (
    BINARY,
    JSON,
    LINES,
    LineResponse,
    body_kind,
    parse,
    read_body,
    read_line_groups,
    read_lines,
    write,
)
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
        return re.sub("(?<=.)([A-Z])", r"_\1", self.name).lower()

    def method(self, service: Retrieval | Documents) -> Method:
        """Return the method that answers the rpc."""
        method: Method = getattr(service, self.function)
        return method


RETRIEVAL = (
    Rpc("Search", "search", pb.SearchRequest),
    Rpc("SearchBatch", "search/batch", pb.SearchBatchRequest),
    Rpc("Explain", "explain", pb.ExplainRequest),
    Rpc("Encode", "encode", pb.EncodeRequest),
    Rpc("Info", "info", pb.InfoRequest),
    Rpc("Verify", "verify", pb.VerifyRequest),
)
DOCUMENTS = (
    Rpc("Upsert", "documents/upsert", document_pb.UpsertRequest),
    Rpc("Delete", "documents/delete", document_pb.DeleteRequest),
    Rpc("Get", "documents/get", document_pb.GetRequest),
    Rpc("Scroll", "documents/scroll", document_pb.ScrollRequest),
    Rpc("Count", "documents/count", document_pb.CountRequest),
)


@dataclass(frozen=True)
class _Stream:
    """A request of lines that is answered with lines.

    Attributes:
        request: Whose body is not read yet.
        response: To write to.
        watch: To be started once the body is read.
        deadline: Returns the deadline of a part that begins now.
    """

    request: Request
    response: LineResponse
    watch: DisconnectWatch
    deadline: Callable[[], Deadline]


class Transcoder:
    """Answers HTTP requests with the services.

    Args:
        admission: Admits the requests.
        settings: Of the server: the largest body of a unary request and line of a stream.
    """

    def __init__(self, admission: Admission, settings: Settings) -> None:
        self._admission = admission
        self._receive_bytes = settings.server.receive_bytes
        self._documents_per_call = settings.limits.documents

    def unary(
        self, rpc: Rpc, find: Callable[[Request], Method]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return the endpoint of a unary rpc.

        Args:
            rpc: Which one.
            find: Returns what answers a request.
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
                    reply = await find(request)(message, deadline)
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

    def search_stream(self, retrieval: Retrieval) -> ASGIApp:
        """Return the application that ranks for many queries.

        SearchStreamRequest lines in, SearchStreamResponse lines out.
        """

        async def answer(stream: _Stream) -> None:
            lines = read_lines(stream.request, self._receive_bytes)

            async def read() -> pb.SearchStreamRequest | None:
                async for number, line in lines:
                    return parse(line, pb.SearchStreamRequest, JSON, f"line {number}")
                stream.watch.start()
                return None

            await retrieval.answer_stream(
                read,
                lambda message: stream.response.write(write(message, JSON)),
                stream.deadline,
                self._admission.lifecycle.draining,
            )

        return self._stream("SearchStream", answer)

    def upsert_stream(self, documents: Documents) -> ASGIApp:
        """Return the application that upserts many documents.

        UpsertItem lines in, a WriteResult line out for each, in their order. What has arrived is
        written together.
        """

        async def answer(stream: _Stream) -> None:
            groups = read_line_groups(stream.request, self._receive_bytes, self._documents_per_call)
            current, problem = document_pb.UpsertRequest(), None

            async def read() -> document_pb.UpsertRequest | None:
                nonlocal current, problem
                if problem is None:
                    async for lines in groups:
                        current, problem = await asyncio.to_thread(_items, lines)
                        if current.documents:
                            return current
                        break
                if problem is not None:
                    raise problem
                stream.watch.start()
                return None

            async def respond(outcome: document_pb.UpsertStreamResponse) -> None:
                results = outcome.response.results or [
                    document_pb.WriteResult(
                        id=item.id,
                        status=document_pb.WRITE_STATUS_FAILED,
                        error=outcome.error,
                    )
                    for item in current.documents
                ]
                for result in results:
                    await stream.response.write(write(result, JSON))

            await documents.answer_stream(
                read, respond, stream.deadline, self._admission.lifecycle.draining
            )

        return self._stream("UpsertStream", answer)

    def _stream(self, method: str, answer: Callable[[_Stream], Awaitable[None]]) -> ASGIApp:
        """Return an application that admits a request of lines and answers it with lines.

        The response begins with its first line, so an error before that has its own status; a later
        one is the last line, ``{"error": ...}``.
        """

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive)
            context, problem = context_of(method, request)
            headers = {"x-request-id": context.request_id}
            response = LineResponse(send, headers)
            watch = DisconnectWatch(request)
            try:
                with self._admission.request(context):
                    if problem is not None:
                        raise problem
                    body_kind(request, LINES)
                    await answer(_Stream(request, response, watch, self._deadlines(context)))
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

        return app

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


def _items(
    lines: Sequence[tuple[int, bytes]],
) -> tuple[document_pb.UpsertRequest, InputError | None]:
    """Return the documents of lines up to the first that is none, and what is wrong with that."""
    request = document_pb.UpsertRequest()
    for number, line in lines:
        try:
            request.documents.append(parse(line, document_pb.UpsertItem, JSON, f"line {number}"))
        except InputError as error:
            return request, error
    return request, None
