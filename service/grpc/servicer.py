"""The rpcs of RetrievalService over gRPC: admit the call, answer it, end it with its status."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from ...core.errors import CspladeError, InputError
from ...engine.deadline import Deadline
from ...v1 import retrieval_pb2 as pb
from ...v1 import retrieval_pb2_grpc as rpc
from ..admission import Admission, RequestContext
from ..retrieval import Retrieval
from .interceptor import Malformed
from .status import status_of


class RetrievalServicer(rpc.RetrievalServiceServicer):
    """Admits calls and ends them.

    Args:
        retrieval: Answers the messages.
        admission: Admits the calls.
    """

    def __init__(self, retrieval: Retrieval, admission: Admission) -> None:
        self._retrieval, self._admission = retrieval, admission

    async def Search(
        self, request: pb.SearchRequest, context: grpc.aio.ServicerContext
    ) -> pb.SearchResponse:
        """Rank for one query."""
        async with self._call("Search", context, request) as deadline:
            return await self._retrieval.search(request, deadline)

    async def SearchStream(
        self, _: AsyncIterator[pb.SearchStreamRequest], context: grpc.aio.ServicerContext
    ) -> None:
        """Rank for many queries, a bounded number at a time; answer each as it is ready."""
        async with self._call("SearchStream", context):
            await self._retrieval.answer_stream(
                lambda: _read(context),
                context.write,
                lambda: self._admission.deadline(context.time_remaining()),
                self._admission.lifecycle.draining,
            )

    async def SearchBatch(
        self, request: pb.SearchBatchRequest, context: grpc.aio.ServicerContext
    ) -> pb.SearchBatchResponse:
        """Rank for many queries together."""
        async with self._call("SearchBatch", context, request) as deadline:
            return await self._retrieval.search_batch(request, deadline)

    async def Explain(
        self, request: pb.ExplainRequest, context: grpc.aio.ServicerContext
    ) -> pb.ExplainResponse:
        """Score documents by their ids."""
        async with self._call("Explain", context, request) as deadline:
            return await self._retrieval.explain(request, deadline)

    async def Encode(
        self, request: pb.EncodeRequest, context: grpc.aio.ServicerContext
    ) -> pb.EncodeResponse:
        """Encode texts to vectors."""
        async with self._call("Encode", context, request) as deadline:
            return await self._retrieval.encode(request, deadline)

    async def Info(
        self, request: pb.InfoRequest, context: grpc.aio.ServicerContext
    ) -> pb.InfoResponse:
        """Tell what is served."""
        async with self._call("Info", context, request) as deadline:
            return await self._retrieval.info(request, deadline)

    async def Verify(
        self, request: pb.VerifyRequest, context: grpc.aio.ServicerContext
    ) -> pb.VerifyResponse:
        """Compare a search with the exhaustive reference."""
        async with self._call("Verify", context, request) as deadline:
            return await self._retrieval.verify(request, deadline)

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


async def _read(context: grpc.aio.ServicerContext) -> pb.SearchStreamRequest | None:
    """Return the next message of a stream, None after the last."""
    item = await context.read()
    _check_parsed(item)
    return None if item is grpc.aio.EOF else item


def _check_parsed(message: Any) -> None:
    if isinstance(message, Malformed):
        raise InputError("request: not a valid protobuf message; send one of csplade.v1")
