"""The rpcs of RetrievalService: check the request, await the backend, make the reply."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from ...core.errors import CspladeError, InputError, UnavailableError
from ...engine.backend import SearchBackend
from ...engine.deadline import Deadline
from ...engine.policy import INLINE_HITS
from ...v1 import retrieval_pb2 as pb
from ...v1 import retrieval_pb2_grpc as rpc
from ..admission import Admission, RequestContext, public_error
from ..settings import Settings
from ..telemetry import logs, tracing
from ..telemetry.metrics import Metrics
from . import replies, requests
from .interceptor import Malformed
from .status import status_of

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)


class RetrievalServicer(rpc.RetrievalServiceServicer):
    """Answers requests with a backend.

    Attributes:
        backend: None while the server loads; no request is admitted before it is set.
    """

    def __init__(self, settings: Settings, metrics: Metrics, admission: Admission) -> None:
        self._settings, self._metrics, self._admission = settings, metrics, admission
        self.backend: SearchBackend | None = None

    async def Search(
        self, request: pb.SearchRequest, context: grpc.aio.ServicerContext
    ) -> pb.SearchResponse:
        """Rank for one query."""
        async with self._call("Search", context, request) as deadline:
            return await self._search(request, deadline)

    async def SearchStream(
        self, _: AsyncIterator[pb.SearchStreamRequest], context: grpc.aio.ServicerContext
    ) -> None:
        """Rank for many queries, a bounded number at a time; answer each as it is ready."""
        async with self._call("SearchStream", context):
            slots = asyncio.Semaphore(self._settings.limits.stream_in_flight)
            writing = asyncio.Lock()

            async def answer(item: pb.SearchStreamRequest) -> None:
                each = self._admission.deadline(context.time_remaining())
                response = await self._stream_answer(item, each)
                async with writing:
                    await context.write(response)
                slots.release()

            item = None
            async with asyncio.TaskGroup() as group:
                async for item in self._until_drained(context):
                    if isinstance(item, Malformed):
                        break
                    await slots.acquire()
                    group.create_task(answer(item))
            _check_parsed(item)
            if self._admission.lifecycle.draining.is_set():
                raise UnavailableError(
                    "the server is shutting down; what was read is answered, retry the rest"
                )

    async def Encode(
        self, request: pb.EncodeRequest, context: grpc.aio.ServicerContext
    ) -> pb.EncodeResponse:
        """Encode texts to vectors."""
        async with self._call("Encode", context, request) as deadline:
            started = time.perf_counter_ns()
            backend = self._ready()
            texts, kind = requests.encode_texts(request, self._settings.limits)
            for text in texts:
                self._log_text(kind, text)
            encodings = await backend.encode(texts, kind, deadline)

            def reply() -> pb.EncodeResponse:
                total = time.perf_counter_ns() - started
                return self._sendable(
                    replies.encode_reply(
                        encodings, backend.info, decode=request.decode, total=total
                    ),
                    "send fewer texts",
                )

            message = await asyncio.to_thread(reply)
            tracing.stages(message.timings)
            return message

    async def Info(
        self, request: pb.InfoRequest, context: grpc.aio.ServicerContext
    ) -> pb.InfoResponse:
        """Tell what is served."""
        async with self._call("Info", context, request):
            return replies.info_reply(self._ready().info, self._settings)

    async def Verify(
        self, request: pb.VerifyRequest, context: grpc.aio.ServicerContext
    ) -> pb.VerifyResponse:
        """Compare a search with the exhaustive reference."""
        async with self._call("Verify", context, request) as deadline:
            started = time.perf_counter_ns()
            backend = self._ready()
            query = requests.verify_query(request, self._settings.limits, backend.info)
            self._log_text("query", query.text)
            verification = await backend.verify(query, deadline)
            if not verification:
                self._metrics.verify_mismatches.inc(max(1, len(verification.differences)))
                log.error(
                    "verify found %d differing ranks of %d",
                    len(verification.differences),
                    verification.compared,
                )
            reply = replies.verify_reply(verification, total=time.perf_counter_ns() - started)
            tracing.stages(reply.timings)
            return reply

    @asynccontextmanager
    async def _call(
        self, method: str, context: grpc.aio.ServicerContext, message: Any = None
    ) -> AsyncIterator[Deadline]:
        """Admit a call, and end it with the status of the error that it raises."""
        metadata = dict(context.invocation_metadata() or ())
        request = RequestContext.create(method, metadata, context.peer(), context.time_remaining())
        trailing = ("x-request-id", request.request_id)
        context.set_trailing_metadata((trailing,))
        try:
            with self._admission.request(request) as deadline:
                _check_parsed(message)
                yield deadline
        except CspladeError as error:
            status = status_of(error)
            await context.abort(status.code, status.message, (trailing, *status.metadata))

    async def _search(self, request: pb.SearchRequest, deadline: Deadline) -> pb.SearchResponse:
        started = time.perf_counter_ns()
        backend = self._ready()
        query = requests.search_query(request, self._settings.limits, backend.info)
        self._log_text("query", query.text)
        answer = await backend.search(query, deadline)

        def reply() -> pb.SearchResponse:
            total = time.perf_counter_ns() - started
            return self._sendable(
                replies.search_reply(answer, total=total),
                "ask for a smaller k, or without documents or explanations",
            )

        message = await _render(reply, small=len(answer) <= INLINE_HITS and not query.explain)
        tracing.stages(message.timings)
        return message

    async def _stream_answer(
        self, item: pb.SearchStreamRequest, deadline: Deadline
    ) -> pb.SearchStreamResponse:
        started, code = time.perf_counter(), "OK"
        with tracing.part("SearchStreamQuery") as trace:
            try:
                response = await self._search(item.request, deadline)
                return pb.SearchStreamResponse(sequence=item.sequence, response=response)
            except Exception as error:
                what = f"query {item.sequence} of a stream"
                status = status_of(public_error(error, what, logs.request_id.get()))
                code = status.code.name
                told = pb.Error(code=status.code.value[0], message=status.message)
                if status.retry_after is not None:
                    told.retry_after_ms = max(1, round(status.retry_after * 1000))
                return pb.SearchStreamResponse(sequence=item.sequence, error=told)
            finally:
                if trace is not None:
                    trace.end_with(code)
                seconds = time.perf_counter() - started
                self._metrics.answered("SearchStreamQuery", code, seconds)

    async def _until_drained(
        self, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.SearchStreamRequest]:
        """Yield the requests of a stream until it ends or the server drains."""
        drained = asyncio.ensure_future(self._admission.lifecycle.draining.wait())
        try:
            while True:
                coming = asyncio.ensure_future(context.read())
                await asyncio.wait((coming, drained), return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    return
                if (item := coming.result()) is grpc.aio.EOF:
                    return
                yield item
        finally:
            drained.cancel()

    def _ready(self) -> SearchBackend:
        if self.backend is None:
            raise UnavailableError("the server is still loading; retry later")
        return self.backend

    def _sendable(self, message: M, advice: str) -> M:
        """Return the message unless it is larger than the server may send."""
        size, limit = message.ByteSize(), self._settings.server.send_bytes
        if size > limit:
            raise InputError(f"answer: {size} bytes; server.send_bytes allows {limit}; {advice}")
        return message

    def _log_text(self, kind: str, text: str | None) -> None:
        if self._settings.logging.query_text:
            log.info("text", extra={"kind": kind, "text": text})


def _check_parsed(message: Any) -> None:
    if isinstance(message, Malformed):
        raise InputError("request: not a valid protobuf message; send one of csplade.v1")


async def _render(make: Callable[[], M], *, small: bool) -> M:
    """Make a message here if it is small, else in a thread: a large one would block the loop."""
    return make() if small else await asyncio.to_thread(make)
