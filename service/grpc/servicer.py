"""The rpcs over gRPC: admit the call, answer it, end it with its status."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

import grpc.aio

from ...engine.deadline import Deadline
from ...v1 import documents_pb2 as document_pb
from ...v1 import documents_pb2_grpc as document_rpc
from ...v1 import retrieval_pb2 as pb
from ...v1 import retrieval_pb2_grpc as rpc
from ..admission import Admission
from ..documents import Documents
from ..retrieval import Retrieval
from .call import answered, read_message

A = TypeVar("A", bound=Retrieval | Documents)
M = TypeVar("M")
R = TypeVar("R")


class _Servicer(Generic[A]):
    """What the servicers of both services share.

    Args:
        answers: Answers the messages.
        admission: Admits the calls.
    """

    def __init__(self, answers: A, admission: Admission) -> None:
        self._answers: A = answers
        self._admission = admission

    def _call(
        self,
        method: str,
        answer: Callable[[M, Deadline], Awaitable[R]],
        message: M,
        context: grpc.aio.ServicerContext,
    ) -> Awaitable[R]:
        return answered(self._admission, method, answer, message, context)

    async def _stream(self, method: str, context: grpc.aio.ServicerContext) -> None:
        async def answer(*_: object) -> None:
            await self._answers.answer_stream(
                lambda: read_message(context),
                context.write,
                lambda: self._admission.deadline(context.time_remaining()),
                self._admission.lifecycle.draining,
            )

        await self._call(method, answer, None, context)


class RetrievalServicer(_Servicer[Retrieval], rpc.RetrievalServiceServicer):
    """Admits calls of RetrievalService and ends them."""

    async def Search(
        self, request: pb.SearchRequest, context: grpc.aio.ServicerContext
    ) -> pb.SearchResponse:
        """Rank for one query."""
        return await self._call("Search", self._answers.search, request, context)

    async def SearchStream(
        self, _: AsyncIterator[pb.SearchStreamRequest], context: grpc.aio.ServicerContext
    ) -> None:
        """Rank for many queries, a bounded number at a time; answer each as it is ready."""
        await self._stream("SearchStream", context)

    async def SearchBatch(
        self, request: pb.SearchBatchRequest, context: grpc.aio.ServicerContext
    ) -> pb.SearchBatchResponse:
        """Rank for many queries together."""
        return await self._call("SearchBatch", self._answers.search_batch, request, context)

    async def Explain(
        self, request: pb.ExplainRequest, context: grpc.aio.ServicerContext
    ) -> pb.ExplainResponse:
        """Score documents by their ids."""
        return await self._call("Explain", self._answers.explain, request, context)

    async def Encode(
        self, request: pb.EncodeRequest, context: grpc.aio.ServicerContext
    ) -> pb.EncodeResponse:
        """Encode texts to vectors."""
        return await self._call("Encode", self._answers.encode, request, context)

    async def Info(
        self, request: pb.InfoRequest, context: grpc.aio.ServicerContext
    ) -> pb.InfoResponse:
        """Tell what is served."""
        return await self._call("Info", self._answers.info, request, context)

    async def Verify(
        self, request: pb.VerifyRequest, context: grpc.aio.ServicerContext
    ) -> pb.VerifyResponse:
        """Compare a search with the exhaustive reference."""
        return await self._call("Verify", self._answers.verify, request, context)


class DocumentServicer(_Servicer[Documents], document_rpc.DocumentServiceServicer):
    """Admits calls of DocumentService and ends them."""

    async def Upsert(
        self, request: document_pb.UpsertRequest, context: grpc.aio.ServicerContext
    ) -> document_pb.UpsertResponse:
        """Add documents or replace them."""
        return await self._call("Upsert", self._answers.upsert, request, context)

    async def UpsertStream(
        self, _: AsyncIterator[document_pb.UpsertRequest], context: grpc.aio.ServicerContext
    ) -> None:
        """Upsert request after request; each is answered before the next is read."""
        await self._stream("UpsertStream", context)

    async def Delete(
        self, request: document_pb.DeleteRequest, context: grpc.aio.ServicerContext
    ) -> document_pb.DeleteResponse:
        """Delete documents."""
        return await self._call("Delete", self._answers.delete, request, context)

    async def Get(
        self, request: document_pb.GetRequest, context: grpc.aio.ServicerContext
    ) -> document_pb.GetResponse:
        """Read documents by id."""
        return await self._call("Get", self._answers.get, request, context)

    async def Scroll(
        self, request: document_pb.ScrollRequest, context: grpc.aio.ServicerContext
    ) -> document_pb.ScrollResponse:
        """Read a page of documents."""
        return await self._call("Scroll", self._answers.scroll, request, context)

    async def Count(
        self, request: document_pb.CountRequest, context: grpc.aio.ServicerContext
    ) -> document_pb.CountResponse:
        """Count documents."""
        return await self._call("Count", self._answers.count, request, context)
