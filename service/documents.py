"""DocumentService without a transport: messages in, messages out, answered by a backend.

gRPC and HTTP call it inside :meth:`Admission.request` and turn its errors into theirs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from ..core.errors import CspladeError, UnavailableError
from ..core.results import WriteResult
from ..engine.backend import DocumentBackend, Written
from ..engine.deadline import Deadline
from ..index import Upsert
from ..v1 import documents_pb2 as pb
from .admission import public_error
from .drain import until_drained
from .messages import documents as messages
from .messages import replies
from .messages.requests import resolved_filter
from .settings import Settings
from .telemetry import logs, tracing
from .telemetry.metrics import Metrics


class Documents:
    """Check the request, await the backend, make the reply.

    All methods raise CspladeError; InputError if a field breaks its rule, or if the reply is larger
    than ``server.send_bytes``.

    Args:
        settings: All settings.
        metrics: Where requests of streams are counted.

    Attributes:
        backend: None while the server loads.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self.backend: DocumentBackend | None = None

    async def upsert(self, request: pb.UpsertRequest, deadline: Deadline) -> pb.UpsertResponse:
        """Add documents or replace them."""
        backend = self._ready()
        limits, info = self._settings.limits, backend.info
        checked = await asyncio.to_thread(messages.upserts, request, limits, info)
        items = [one for one in checked if isinstance(one, Upsert)]
        if items or not info.writable:
            written = await backend.upsert(items, deadline)
        else:
            written = Written((), info.index.generation)
        done = iter(written.results)
        results = tuple(one if isinstance(one, WriteResult) else next(done) for one in checked)
        whole = Written(results, written.generation)
        return await asyncio.to_thread(messages.upsert_reply, whole, _public("Upsert"))

    async def answer_stream(
        self,
        read: Callable[[], Awaitable[pb.UpsertRequest | None]],
        write: Callable[[pb.UpsertStreamResponse], Awaitable[None]],
        deadline: Callable[[], Deadline],
        draining: asyncio.Event,
    ) -> None:
        """Upsert request after request; each is answered before the next is read.

        Args:
            read: Returns the next request, None after the last. A CspladeError of it ends the
                stream.
            write: Sends an answer.
            deadline: Returns the deadline of a request that begins now.
            draining: Ends the stream when it is set.

        Raises:
            UnavailableError: the server drains; what was read is answered.
        """
        async for request in until_drained(read, draining):
            await write(await self._stream_answer(request, deadline()))
        if draining.is_set():
            raise UnavailableError(
                "the server is shutting down; what was answered is written, send the rest to "
                "another one"
            )

    async def _stream_answer(
        self, request: pb.UpsertRequest, deadline: Deadline
    ) -> pb.UpsertStreamResponse:
        """Upsert one request of a stream; an error becomes the answer."""
        started, code = time.perf_counter(), "OK"
        with tracing.part("UpsertStreamRequest") as trace:
            try:
                return pb.UpsertStreamResponse(response=await self.upsert(request, deadline))
            except Exception as error:
                public = public_error(error, "a request of UpsertStream", logs.request_id.get())
                code = public.code
                return pb.UpsertStreamResponse(error=replies.error_reply(public))
            finally:
                if trace is not None:
                    trace.end_with(code)
                seconds = time.perf_counter() - started
                self._metrics.answered("UpsertStreamRequest", code, seconds)

    async def delete(self, request: pb.DeleteRequest, deadline: Deadline) -> pb.DeleteResponse:
        """Delete documents."""
        backend = self._ready()
        if request.HasField("filter"):
            filter = messages.deleted_filter(request, backend.info)
            written, deleted = await backend.delete_where(filter, deadline)
        else:
            ids, if_version = messages.deleted_ids(request, self._settings.limits)
            written = await backend.delete(ids, if_version, deadline)
            deleted = sum(one.status == "deleted" for one in written.results)
        return messages.delete_reply(written, deleted, _public("Delete"))

    async def get(self, request: pb.GetRequest, deadline: Deadline) -> pb.GetResponse:
        """Read documents by id."""
        backend = self._ready()
        ids = messages.wanted_ids(request, self._settings.limits)
        found, generation = await backend.get(ids, deadline, vectors=request.with_vector)
        reply = await asyncio.to_thread(messages.get_reply, ids, found, generation)
        return replies.sendable(reply, self._settings, "name fewer ids, or ask without vectors")

    async def scroll(self, request: pb.ScrollRequest, deadline: Deadline) -> pb.ScrollResponse:
        """Read a page of documents."""
        backend = self._ready()
        after, limit = messages.page_of(request, self._settings.limits)
        filter = resolved_filter(request, backend.info)
        page = await backend.scroll(
            after, limit, deadline, filter=filter, vectors=request.with_vector
        )
        reply = await asyncio.to_thread(messages.scroll_reply, page, limit, self._settings)
        return replies.sendable(reply, self._settings, "ask without vectors")

    async def count(self, request: pb.CountRequest, deadline: Deadline) -> pb.CountResponse:
        """Count documents."""
        backend = self._ready()
        filter = resolved_filter(request, backend.info)
        documents, generation = await backend.count(deadline, filter=filter)
        return pb.CountResponse(documents=documents, generation=generation)

    def _ready(self) -> DocumentBackend:
        if self.backend is None:
            raise UnavailableError("the server is still loading; retry later")
        return self.backend


def _public(method: str) -> Callable[[CspladeError], CspladeError]:
    """Return what makes errors of documents public."""
    return partial(public_error, what=f"a document of {method}", request_id=logs.request_id.get())
