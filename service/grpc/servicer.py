"""The rpcs of RetrievalService over gRPC: admit the call, answer it, end it with its status."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

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

M = TypeVar("M")
R = TypeVar("R")


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
        return await self._call("Search", self._retrieval.search, request, context)

    async def SearchStream(
        self, _: AsyncIterator[pb.SearchStreamRequest], context: grpc.aio.ServicerContext
    ) -> None:
        """Rank for many queries, a bounded number at a time; answer each as it is ready."""
        await self._call("SearchStream", lambda *_: self._answer_stream(context), None, context)

    async def SearchBatch(
        self, request: pb.SearchBatchRequest, context: grpc.aio.ServicerContext
    ) -> pb.SearchBatchResponse:
        """Rank for many queries together."""
        return await self._call("SearchBatch", self._retrieval.search_batch, request, context)

    async def Explain(
        self, request: pb.ExplainRequest, context: grpc.aio.ServicerContext
    ) -> pb.ExplainResponse:
        """Score documents by their ids."""
        return await self._call("Explain", self._retrieval.explain, request, context)

    async def Encode(
        self, request: pb.EncodeRequest, context: grpc.aio.ServicerContext
    ) -> pb.EncodeResponse:
        """Encode texts to vectors."""
        return await self._call("Encode", self._retrieval.encode, request, context)

    async def Info(
        self, request: pb.InfoRequest, context: grpc.aio.ServicerContext
    ) -> pb.InfoResponse:
        """Tell what is served."""
        return await self._call("Info", self._retrieval.info, request, context)

    async def Verify(
        self, request: pb.VerifyRequest, context: grpc.aio.ServicerContext
    ) -> pb.VerifyResponse:
        """Compare a search with the exhaustive reference."""
        return await self._call("Verify", self._retrieval.verify, request, context)

    async def _answer_stream(self, context: grpc.aio.ServicerContext) -> None:
        await self._retrieval.answer_stream(
            lambda: _read(context),
            context.write,
            lambda: self._admission.deadline(context.time_remaining()),
            self._admission.lifecycle.draining,
        )

    async def _call(
        self,
        method: str,
        answer: Callable[[M, Deadline], Awaitable[R]],
        message: M,
        context: grpc.aio.ServicerContext,
    ) -> R:
        """Admit a call and answer its message, or end it with the status of the error."""
        metadata = dict(context.invocation_metadata() or ())
        request = RequestContext.create(method, metadata, context.peer(), context.time_remaining())
        trailing = ("x-request-id", request.request_id)
        context.set_trailing_metadata((trailing,))
        try:
            with self._admission.request(request) as deadline:
                _check_parsed(message)
                return await answer(message, deadline)
        except CspladeError as error:
            status = status_of(error)
            await context.abort(status.code, status.message, (trailing, *status.metadata))
            raise  # not reached: abort raises


async def _read(context: grpc.aio.ServicerContext) -> pb.SearchStreamRequest | None:
    """Return the next message of a stream, None after the last."""
    item = await context.read()
    _check_parsed(item)
    return None if item is grpc.aio.EOF else item


def _check_parsed(message: Any) -> None:
    if isinstance(message, Malformed):
        raise InputError("request: not a valid protobuf message; send one of csplade.v1")
