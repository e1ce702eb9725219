"""The client for asyncio; it needs grpcio and protobuf alone."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Self

import grpc
import grpc.aio

from ..core.filters import Filter
from ..core.results import Answer, Encoding, Explanation, Verification
from ..v1 import retrieval_pb2 as pb
from ..v1 import retrieval_pb2_grpc as rpc
from . import requests, results
from .connection import Connection, ServiceError
from .requests import Query
from .results import Info, InOrder


class AsyncClient:
    """The same as :class:`.client.Client` for asyncio; see there for arguments and errors."""

    def __init__(self, target: str = "localhost:50051", **options: Any) -> None:
        self._connection = Connection(target, **options)
        self._channel = self._connection.asynchronous_channel()
        self._stub = rpc.RetrievalServiceStub(self._channel)

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

        call = self._stub.SearchStream(
            messages(), timeout=limit, metadata=self._connection.metadata
        )
        order = InOrder()
        try:
            async for response in call:
                for answer in order.ready(response):
                    yield answer
        except grpc.aio.AioRpcError as error:
            raise self._connection.error(error) from error
        finally:
            call.cancel()
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
