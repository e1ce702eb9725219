"""The client for asyncio; it needs grpcio and protobuf alone."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Self

import grpc
import grpc.aio

from ..core.document import Document
from ..core.filters import Filter
from ..core.results import (
    Answer,
    Encoding,
    Explanation,
    StoredDocument,
    Verification,
    WriteResult,
)
from ..v1 import documents_pb2 as document_pb
from ..v1 import documents_pb2_grpc as document_rpc
from ..v1 import retrieval_pb2 as pb
from ..v1 import retrieval_pb2_grpc as rpc
from . import requests, results
from .connection import Connection, ServiceError
from .requests import UPSERT_BATCH, Query, Vector
from .results import Info, InOrder


class AsyncClient:
    """The same as :class:`.client.Client` for asyncio; see there for arguments and errors."""

    def __init__(self, target: str = "localhost:50051", **options: Any) -> None:
        self._connection = Connection(target, **options)
        self._channel = self._connection.asynchronous_channel()
        self._stub = rpc.RetrievalServiceStub(self._channel)
        self._documents = document_rpc.DocumentServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in progress are cancelled."""
        await self._channel.close()

    async def search(
        self,
        query: Query,
        k: int = 10,
        *,
        filter: Filter | Mapping[str, Any] | None = None,
        offset: int = 0,
        score_threshold: float | None = None,
        explain: bool = False,
        with_document: bool = False,
        with_vector: bool = False,
        allow_partial: bool = False,
        min_generation: int = 0,
        timeout: float | None = None,
    ) -> Answer:
        """See :meth:`.client.Client.search`."""
        request = requests.search_request(
            query,
            k,
            filter=filter,
            offset=offset,
            score_threshold=score_threshold,
            explain=explain,
            with_document=with_document,
            with_vector=with_vector,
            allow_partial=allow_partial,
            min_generation=min_generation,
        )
        return results.answer(await self._call(self._stub.Search, request, timeout))

    async def search_batch(
        self,
        queries: Sequence[Query],
        k: int = 10,
        *,
        filter: Filter | Mapping[str, Any] | None = None,
        offset: int = 0,
        score_threshold: float | None = None,
        explain: bool = False,
        with_document: bool = False,
        with_vector: bool = False,
        allow_partial: bool = False,
        timeout: float | None = None,
    ) -> list[Answer | ServiceError]:
        """See :meth:`.client.Client.search_batch`."""
        request = requests.batch_request(
            queries,
            k,
            filter=filter,
            offset=offset,
            score_threshold=score_threshold,
            explain=explain,
            with_document=with_document,
            with_vector=with_vector,
            allow_partial=allow_partial,
        )
        return results.outcomes(await self._call(self._stub.SearchBatch, request, timeout))

    async def search_many(
        self,
        queries: Iterable[Query] | AsyncIterable[Query],
        k: int = 10,
        *,
        filter: Filter | Mapping[str, Any] | None = None,
        score_threshold: float | None = None,
        explain: bool = False,
        with_document: bool = False,
        with_vector: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[Answer]:
        """See :meth:`.client.Client.search_many`; ``queries`` may be asynchronous too."""
        requests.check_queries(queries)
        requests.check_k(k)
        limit = None if timeout is None else self._connection.timeout(timeout)
        sent = 0
        failure: Exception | None = None

        async def messages() -> AsyncIterator[pb.SearchStreamRequest]:
            nonlocal sent, failure
            try:
                async for query in _asynchronous(queries):
                    request = requests.search_request(
                        query,
                        k,
                        filter=filter,
                        score_threshold=score_threshold,
                        explain=explain,
                        with_document=with_document,
                        with_vector=with_vector,
                    )
                    yield pb.SearchStreamRequest(sequence=sent, request=request)
                    sent += 1
            except Exception as error:  # gRPC would replace it by an error of its own
                failure = error

        order = InOrder()
        async for response in self._stream(self._stub.SearchStream, messages(), limit):
            for answer in order.ready(response):
                yield answer
        if failure is not None:
            raise failure
        order.check_complete(sent)

    async def explain(
        self,
        query: Query,
        ids: Sequence[str],
        *,
        with_document: bool = False,
        timeout: float | None = None,
    ) -> list[Explanation]:
        """See :meth:`.client.Client.explain`."""
        request = requests.explain_request(query, ids, with_document)
        return results.explanations(await self._call(self._stub.Explain, request, timeout))

    async def encode(
        self,
        texts: Sequence[str],
        kind: str = "query",
        *,
        decode: bool = False,
        timeout: float | None = None,
    ) -> list[Encoding]:
        """See :meth:`.client.Client.encode`."""
        request = requests.encode_request(texts, kind, decode)
        return results.encodings(await self._call(self._stub.Encode, request, timeout))

    async def info(self, *, timeout: float | None = None) -> Info:
        """See :meth:`.client.Client.info`."""
        return results.info(await self._call(self._stub.Info, pb.InfoRequest(), timeout))

    async def verify(
        self,
        query: Query,
        k: int = 10,
        *,
        filter: Filter | Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Verification:
        """See :meth:`.client.Client.verify`."""
        request = requests.verify_request(query, k, filter)
        return results.verification(await self._call(self._stub.Verify, request, timeout))

    async def upsert(
        self,
        documents: Iterable[Document],
        vectors: Iterable[Vector | None] | None = None,
        *,
        if_version: int | None = None,
        timeout: float | None = None,
    ) -> list[WriteResult]:
        """See :meth:`.client.Client.upsert`."""
        (request,) = requests.upsert_requests(documents, vectors, if_version)
        return results.written(await self._call(self._documents.Upsert, request, timeout))

    async def upsert_many(
        self,
        documents: Iterable[Document],
        vectors: Iterable[Vector | None] | None = None,
        *,
        batch: int = UPSERT_BATCH,
        timeout: float | None = None,
    ) -> AsyncIterator[WriteResult]:
        """See :meth:`.client.Client.upsert_many`."""
        limit = None if timeout is None else self._connection.timeout(timeout)
        failure: Exception | None = None

        async def messages() -> AsyncIterator[document_pb.UpsertRequest]:
            nonlocal failure
            try:
                for request in requests.upsert_requests(documents, vectors, None, batch):
                    yield request
            except Exception as error:  # gRPC would replace it by an error of its own
                failure = error

        async for response in self._stream(self._documents.UpsertStream, messages(), limit):
            for result in results.streamed(response):
                yield result
        if failure is not None:
            raise failure

    async def delete(
        self, ids: Sequence[str], *, if_version: int | None = None, timeout: float | None = None
    ) -> list[WriteResult]:
        """See :meth:`.client.Client.delete`."""
        request = requests.delete_request(ids, if_version)
        return results.written(await self._call(self._documents.Delete, request, timeout))

    async def delete_where(
        self, filter: Filter | Mapping[str, Any], *, timeout: float | None = None
    ) -> int:
        """See :meth:`.client.Client.delete_where`."""
        request = requests.delete_where_request(filter)
        return results.deleted(await self._call(self._documents.Delete, request, timeout))

    async def get(
        self, ids: Sequence[str], *, with_vector: bool = False, timeout: float | None = None
    ) -> list[StoredDocument | None]:
        """See :meth:`.client.Client.get`."""
        request = requests.get_request(ids, with_vector)
        reply = await self._call(self._documents.Get, request, timeout)
        return [results.stored(one) for one in reply.documents]

    async def scroll(
        self,
        *,
        filter: Filter | Mapping[str, Any] | None = None,
        page: int = 100,
        with_vector: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[StoredDocument]:
        """See :meth:`.client.Client.scroll`."""
        cursor, more = "", True
        while more:
            request = requests.scroll_request(page, cursor, with_vector, filter)
            reply = await self._call(self._documents.Scroll, request, timeout)
            for one in reply.documents:
                if (document := results.stored(one)) is not None:
                    yield document
            cursor = reply.next_cursor
            more = bool(cursor)

    async def count(
        self,
        *,
        filter: Filter | Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> int:
        """See :meth:`.client.Client.count`."""
        reply = await self._call(self._documents.Count, requests.count_request(filter), timeout)
        return int(reply.documents)

    async def _stream(
        self, method: Any, messages: AsyncIterator[Any], timeout: float | None
    ) -> AsyncIterator[Any]:
        """Yield what a stream answers."""
        call = method(messages, timeout=timeout, metadata=self._connection.metadata)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise self._connection.error(error) from error
        finally:
            call.cancel()

    async def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        seconds = self._connection.timeout(timeout)
        try:
            return await method(request, timeout=seconds, metadata=self._connection.metadata)
        except grpc.aio.AioRpcError as error:
            raise self._connection.error(error) from error


async def _asynchronous(queries: Iterable[Query] | AsyncIterable[Query]) -> AsyncIterator[Query]:
    if isinstance(queries, AsyncIterable):
        async for query in queries:
            yield query
    else:
        for query in queries:
            yield query
