"""RetrievalService without a transport: messages in, messages out, answered by a backend.

gRPC, gRPC on Ray and HTTP call it inside :meth:`Admission.request` and turn its errors into theirs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..core.errors import CspladeError, UnavailableError
from ..core.results import Answer
from ..engine.backend import Query, SearchBackend
from ..engine.deadline import Deadline
from ..engine.policy import INLINE_DOCUMENTS, INLINE_HITS, INLINE_QUERIES
from ..v1 import retrieval_pb2 as pb
from .admission import Admission, public_error
from .drain import until_drained
from .messages import replies, requests
from .settings import Settings
from .telemetry import logs, tracing
from .telemetry.metrics import Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")


class Retrieval:
    """Check the request, await the backend, make the reply.

    All methods raise CspladeError; InputError if a field breaks its rule, or if the reply is larger
    than ``server.send_bytes``.

    Args:
        settings: All settings.
        metrics: Where queries of streams and batches, and mismatches, are counted.
        admission: Counts the queries of batches in flight.

    Attributes:
        backend: None while the server loads.
    """

    def __init__(self, settings: Settings, metrics: Metrics, admission: Admission) -> None:
        self._settings, self._metrics, self._admission = settings, metrics, admission
        self.backend: SearchBackend | None = None

    def of(self, backend: SearchBackend) -> Retrieval:
        """Return what answers the same by another backend."""
        other = Retrieval(self._settings, self._metrics, self._admission)
        other.backend = backend
        return other

    async def search(self, request: pb.SearchRequest, deadline: Deadline) -> pb.SearchResponse:
        """Rank for one query."""
        started = time.perf_counter_ns()
        backend = self._ready()
        query = requests.search_query(request, self._settings.limits, backend.info)
        self._log_text("query", query.text)
        answer = await backend.search(query, deadline)

        def reply() -> pb.SearchResponse:
            total = time.perf_counter_ns() - started
            return replies.sendable(
                replies.search_reply(answer, columns=request.columns, total=total),
                self._settings,
                "ask for a smaller k, or without documents or explanations",
            )

        most = INLINE_DOCUMENTS if query.with_document else INLINE_HITS
        message = await _render(reply, small=len(answer) <= most and not query.explain)
        tracing.stages(message.timings)
        return message

    async def search_batch(
        self, request: pb.SearchBatchRequest, deadline: Deadline
    ) -> pb.SearchBatchResponse:
        """Rank for many queries together; each is answered or fails alone."""
        started = time.perf_counter_ns()
        backend = self._ready()
        limits, info = self._settings.limits, backend.info
        requests.check_batch(request, limits)

        def checked(one: pb.SearchRequest) -> Query | CspladeError:
            try:
                return requests.search_query(one, limits, info)
            except CspladeError as error:
                return error

        few = len(request.requests) <= INLINE_QUERIES
        with self._admission.counted_as(len(request.requests)):
            queries = await _render(lambda: list(map(checked, request.requests)), small=few)
            valid = [one for one in queries if isinstance(one, Query)]
            for query in valid:
                self._log_text("query", query.text)
            answers = iter(await backend.search_batch(valid, deadline))
        outcomes = [next(answers) if isinstance(one, Query) else one for one in queries]
        public = [
            public_error(one, f"query {place} of a batch", logs.request_id.get())
            if isinstance(one, Exception)
            else one
            for place, one in enumerate(outcomes)
        ]
        self._metrics.batch_answered(
            Counter("OK" if isinstance(one, Answer) else one.code for one in public)
        )

        def reply() -> pb.SearchBatchResponse:
            total = time.perf_counter_ns() - started
            message = pb.SearchBatchResponse()
            for asked, one in zip(request.requests, public, strict=True):
                if isinstance(one, Answer):
                    response = replies.search_reply(one, columns=asked.columns, total=total)
                    message.outcomes.add(response=response)
                else:
                    message.outcomes.add(error=replies.error_reply(one))
            advice = "send fewer queries, or ask for a smaller k"
            return replies.sendable(message, self._settings, advice)

        simple = not any(
            one.explain or one.with_document or one.with_vector for one in request.requests
        )
        hits = sum(len(one) for one in public if isinstance(one, Answer))
        return await _render(reply, small=simple and hits <= INLINE_HITS)

    async def stream_answer(
        self, item: pb.SearchStreamRequest, deadline: Deadline
    ) -> pb.SearchStreamResponse:
        """Rank for one query of a stream; an error becomes a part of the answer."""
        started, code = time.perf_counter(), "OK"
        with tracing.part("SearchStreamQuery") as trace:
            try:
                response = await self.search(item.request, deadline)
                return pb.SearchStreamResponse(sequence=item.sequence, response=response)
            except Exception as error:
                what = f"query {item.sequence} of a stream"
                public = public_error(error, what, logs.request_id.get())
                code = public.code
                return pb.SearchStreamResponse(
                    sequence=item.sequence, error=replies.error_reply(public)
                )
            finally:
                if trace is not None:
                    trace.end_with(code)
                seconds = time.perf_counter() - started
                self._metrics.answered("SearchStreamQuery", code, seconds)

    async def answer_stream(
        self,
        read: Callable[[], Awaitable[pb.SearchStreamRequest | None]],
        write: Callable[[pb.SearchStreamResponse], Awaitable[None]],
        deadline: Callable[[], Deadline],
        draining: asyncio.Event,
    ) -> None:
        """Rank for many queries, a bounded number at a time; answer each as it is ready.

        Args:
            read: Returns the next query, None after the last. A CspladeError of it ends the stream
                once the queries before are answered.
            write: Sends an answer; never called twice at a time.
            deadline: Returns the deadline of a query that begins now.
            draining: Ends the stream when it is set.

        Raises:
            UnavailableError: the server drains; what was read is answered.
        """
        slots = asyncio.Semaphore(self._settings.limits.stream_in_flight)
        writing = asyncio.Lock()
        problem: CspladeError | None = None

        async def answer(item: pb.SearchStreamRequest) -> None:
            response = await self.stream_answer(item, deadline())
            async with writing:
                await write(response)
            slots.release()

        async with asyncio.TaskGroup() as group:
            try:
                async for item in until_drained(read, draining):
                    await slots.acquire()
                    group.create_task(answer(item))
            except CspladeError as error:
                problem = error
        if problem is not None:
            raise problem
        if draining.is_set():
            raise UnavailableError(
                "the server is shutting down; what was read is answered, retry the rest"
            )

    async def explain(self, request: pb.ExplainRequest, deadline: Deadline) -> pb.ExplainResponse:
        """Score documents by their ids."""
        started = time.perf_counter_ns()
        backend = self._ready()
        query, ids = requests.explain_query(request, self._settings.limits, backend.info)
        self._log_text("query", query.text)
        answer, explanations = await backend.explain(query, ids, deadline)

        def reply() -> pb.ExplainResponse:
            total = time.perf_counter_ns() - started
            return replies.sendable(
                replies.explain_reply(answer, explanations, total=total),
                self._settings,
                "name fewer ids, or ask without documents",
            )

        message = await asyncio.to_thread(reply)
        tracing.stages(message.timings)
        return message

    async def encode(self, request: pb.EncodeRequest, deadline: Deadline) -> pb.EncodeResponse:
        """Encode texts to vectors."""
        started = time.perf_counter_ns()
        backend = self._ready()
        texts, kind = requests.encode_texts(request, self._settings.limits)
        for text in texts:
            self._log_text(kind, text)
        encodings = await backend.encode(texts, kind, deadline, attribution=request.attribution)

        def reply() -> pb.EncodeResponse:
            total = time.perf_counter_ns() - started
            return replies.sendable(
                replies.encode_reply(encodings, backend.info, decode=request.decode, total=total),
                self._settings,
                "send fewer texts",
            )

        message = await asyncio.to_thread(reply)
        tracing.stages(message.timings)
        return message

    async def info(self, request: pb.InfoRequest, deadline: Deadline) -> pb.InfoResponse:
        """Tell what is served."""
        return replies.info_reply(self._ready().info, self._settings)

    async def verify(self, request: pb.VerifyRequest, deadline: Deadline) -> pb.VerifyResponse:
        """Compare a search with the exhaustive reference."""
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
        message = replies.verify_reply(verification, total=time.perf_counter_ns() - started)
        tracing.stages(message.timings)
        return message

    def _ready(self) -> SearchBackend:
        if self.backend is None:
            raise UnavailableError("the server is still loading; retry later")
        return self.backend

    def _log_text(self, kind: str, text: str | None) -> None:
        if self._settings.logging.query_text:
            log.info("text", extra={"kind": kind, "text": text})


async def _render(make: Callable[[], T], *, small: bool) -> T:
    """Make something here if it is small, else in a thread: it would block the loop."""
    return make() if small else await asyncio.to_thread(make)
