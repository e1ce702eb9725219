"""The rpcs of RetrievalService: check the request, let the pipeline work, turn the result into a
reply.

They raise errors of Python; the boundary around them makes statuses of those.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence

import grpc
import grpc.aio

from ...core.errors import InputError, UnavailableError
from ...engine.collection import Answer
from ...engine.local import Done, Pipeline, Work
from ...v1 import retrieval_pb2 as pb
from ...v1 import retrieval_pb2_grpc as rpc
from ..admission import Boundary
from ..settings import Settings
from ..telemetry import logs, tracing
from ..telemetry.metrics import Metrics
from . import replies, requests
from .status import status_of

log = logging.getLogger(__name__)


class RetrievalServicer(rpc.RetrievalServiceServicer):
    """Answers once a pipeline is given to it.

    Attributes:
        pipeline: None while loading; the boundary lets nobody in until it is set.
        draining: set when the server winds up; streams then end after what is in flight.
    """

    def __init__(self, settings: Settings, metrics: Metrics, boundary: Boundary) -> None:
        self._settings, self._metrics, self._boundary = settings, metrics, boundary
        self.pipeline: Pipeline | None = None
        self.draining = asyncio.Event()

    def _ready(self) -> Pipeline:
        if self.pipeline is None:
            raise UnavailableError("the server is still loading")
        return self.pipeline

    async def Search(
        self, request: pb.SearchRequest, context: grpc.aio.ServicerContext
    ) -> pb.SearchResponse:
        """Rank for one query."""
        async with self._boundary.request("Search", context):
            return await self._search(request, context.time_remaining())

    async def SearchStream(
        self, _: AsyncIterator[pb.SearchStreamRequest], context: grpc.aio.ServicerContext
    ) -> None:
        """Rank for many queries; as many at a time as the limit says, answered as they are ready."""
        async with self._boundary.request("SearchStream", context):
            slots = asyncio.Semaphore(self._settings.limits.stream_in_flight)
            writing = asyncio.Lock()

            async def answer(item: pb.SearchStreamRequest) -> None:
                response = await self._stream_answer(item, context.time_remaining())
                async with writing:
                    await context.write(response)
                slots.release()

            async with asyncio.TaskGroup() as group:
                async for item in self._until_drained(context):
                    await slots.acquire()
                    group.create_task(answer(item))
            if self.draining.is_set():
                raise UnavailableError(
                    "the server is shutting down; what was read has been answered"
                )

    async def Encode(
        self, request: pb.EncodeRequest, context: grpc.aio.ServicerContext
    ) -> pb.EncodeResponse:
        """Texts to vectors."""
        async with self._boundary.request("Encode", context):
            return await self._encode(request, context.time_remaining())

    async def Info(
        self, request: pb.InfoRequest, context: grpc.aio.ServicerContext
    ) -> pb.InfoResponse:
        """What is being served."""
        async with self._boundary.request("Info", context):
            return replies.info_reply(self._ready().engine, self._settings)

    async def Verify(
        self, request: pb.VerifyRequest, context: grpc.aio.ServicerContext
    ) -> pb.VerifyResponse:
        """Compare a search with the exhaustive reference."""
        async with self._boundary.request("Verify", context):
            return await self._verify(request, context.time_remaining())

    async def _search(
        self, request: pb.SearchRequest, remaining: float | None
    ) -> pb.SearchResponse:
        started = time.perf_counter_ns()
        pipeline = self._ready()
        engine = pipeline.engine
        work = requests.search_work(
            request,
            self._settings.limits,
            engine.index.manifest.vocabulary_size,
            engine.terms_by_token,
        )
        self._log_texts([work])

        def reply(answer: Answer) -> pb.SearchResponse:
            total = time.perf_counter_ns() - started
            message = replies.search_reply(
                answer, engine, with_document=request.with_document, total=total
            )
            return self._sendable(
                message, "ask for a smaller k, or without documents or explanations"
            )

        response = await pipeline.search(work, remaining=remaining, then=reply)
        tracing.stages(response.timings)
        return response

    async def _encode(
        self, request: pb.EncodeRequest, remaining: float | None
    ) -> pb.EncodeResponse:
        started = time.perf_counter_ns()
        pipeline = self._ready()
        works = requests.encode_works(request, self._settings.limits)
        self._log_texts(works)

        def reply(results: Sequence[Done]) -> pb.EncodeResponse:
            total = time.perf_counter_ns() - started
            message = replies.encode_reply(
                results, pipeline.engine, decode=request.decode, total=total
            )
            return self._sendable(message, "send fewer texts")

        response = await pipeline.encode(works, remaining=remaining, then=reply)
        tracing.stages(response.timings)
        return response

    async def _verify(
        self, request: pb.VerifyRequest, remaining: float | None
    ) -> pb.VerifyResponse:
        started = time.perf_counter_ns()
        pipeline = self._ready()
        engine = pipeline.engine
        work = requests.query_work(
            request,
            self._settings.limits,
            engine.index.manifest.vocabulary_size,
            engine.terms_by_token,
        )
        self._log_texts([work])
        answer, reference, nanoseconds = await pipeline.verify(work, remaining=remaining)
        total = time.perf_counter_ns() - started
        reply = replies.verify_reply(
            answer, reference, engine, nanoseconds=nanoseconds, total=total
        )
        tracing.stages(reply.timings)
        if not reply.identical:
            self._metrics.verify_mismatches.inc(max(1, len(reply.differences)))
            log.error(
                "verify found %d differing ranks of %d", len(reply.differences), reply.compared
            )
        return reply

    async def _stream_answer(
        self, item: pb.SearchStreamRequest, remaining: float | None
    ) -> pb.SearchStreamResponse:
        started = time.perf_counter()
        code = grpc.StatusCode.OK
        with tracing.part("SearchStreamQuery") as trace:
            try:
                response = await self._search(item.request, remaining)
                return pb.SearchStreamResponse(sequence=item.sequence, response=response)
            except Exception as error:
                status = status_of(error, logs.request_id.get())
                code = status.code
                if code is grpc.StatusCode.INTERNAL:
                    log.exception("query %d of a stream failed", item.sequence)
                told = pb.Error(code=code.value[0], message=status.message)
                if status.retry_after is not None:
                    told.retry_after_ms = max(1, round(status.retry_after * 1000))
                return pb.SearchStreamResponse(sequence=item.sequence, error=told)
            finally:
                if trace is not None:
                    trace.code(code)
                self._metrics.answered(
                    "SearchStreamQuery", code.name, time.perf_counter() - started
                )

    async def _until_drained(
        self, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.SearchStreamRequest]:
        """The stream's requests, until its end or until the server winds up."""
        drained = asyncio.ensure_future(self.draining.wait())
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

    def _sendable(self, message, advice):  # type: ignore[no-untyped-def]
        """The message, unless it is larger than the server may send."""
        size, limit = message.ByteSize(), self._settings.server.send_bytes
        if size > limit:
            raise InputError(
                f"the answer has {size} bytes, server.send_bytes allows {limit}: {advice}"
            )
        return message

    def _log_texts(self, works: list[Work]) -> None:
        if self._settings.logging.query_text:
            for work in works:
                log.info("text", extra={"kind": work.kind, "text": work.text, "k": work.k})
