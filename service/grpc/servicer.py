"""The rpcs over gRPC: admit the call, answer it, end it with its status."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

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

M = TypeVar("M")
R = TypeVar("R")


class RetrievalServicer(rpc.RetrievalServiceServicer):
    """Admits calls of RetrievalService and ends them.

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
            lambda: read_message(context),
            context.write,
            lambda: self._admission.deadline(context.time_remaining()),
            self._admission.lifecycle.draining,
        )

    def _call(
        self,
        method: str,
        answer: Callable[[M, Deadline], Awaitable[R]],
        message: M,
        context: grpc.aio.ServicerContext,
    ) -> Awaitable[R]:
        return answered(self._admission, method, answer, message, context)


class DocumentServicer(document_rpc.DocumentServiceServicer):
    """Admits calls of DocumentService and ends them.

    Args:
        documents: Answers the messages.
        admission: Admits the calls.
    """

    def __init__(self, documents: Documents, admission: Admission) -> None:
        self._documents, self._admission = documents, admission

    async def Upsert(
        self, request: document_pb.UpsertRequest, context: grpc.aio.ServicerContext
    ) -> document_pb.UpsertResponse:
        """Add documents or replace them."""
        return await self._call("Upsert", self._documents.upsert, request, context)

    async def UpsertStream(
        self, _: AsyncIterator[document_pb.UpsertRequest], context: grpc.aio.ServicerContext
    ) -> None:
        """Upsert request after request; each is answered before the next is read."""
        await self._call("UpsertStream", lambda *_: self._answer_stream(context), None, context)

    async def Delete(
        self, request: document_pb.DeleteRequest, context: grpc.aio.ServicerContext
    ) -> document_pb.DeleteResponse:
        """Delete documents."""
        return await self._call("Delete", self._documents.delete, request, context)

    async def Get(
        self, request: document_pb.GetRequest, context: grpc.aio.ServicerContext
    ) -> document_pb.GetResponse:
        """Read documents by id."""
        return await self._call("Get", self._documents.get, request, context)

    async def Scroll(
        self, request: document_pb.ScrollRequest, context: grpc.aio.ServicerContext
    ) -> document_pb.ScrollResponse:
        """Read a page of documents."""
        return await self._call("Scroll", self._documents.scroll, request, context)

    async def Count(
        self, request: document_pb.CountRequest, context: grpc.aio.ServicerContext
    ) -> document_pb.CountResponse:
        """Count documents."""
        return await self._call("Count", self._documents.count, request, context)

    async def _answer_stream(self, context: grpc.aio.ServicerContext) -> None:
        await self._documents.answer_stream(
            lambda: read_message(context),
            context.write,
            lambda: self._admission.deadline(context.time_remaining()),
            self._admission.lifecycle.draining,
        )

    def _call(
        self,
        method: str,
        answer: Callable[[M, Deadline], Awaitable[R]],
        message: M,
        context: grpc.aio.ServicerContext,
    ) -> Awaitable[R]:
        return answered(self._admission, method, answer, message, context)
