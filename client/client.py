"""Clients of the service, plain and asynchronous; grpcio and protobuf are all they need.

with Client("localhost:50051") as client:
    for hit in client.search("how do birds navigate", k=5, explain=True):
        print(hit)
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

from ..core.errors import CspladeError
from ..v1 import retrieval_pb2 as pb
from ..v1 import retrieval_pb2_grpc as rpc
from . import results as answers
from .results import Answer, Encoding, Info, Verification

__all__ = ["AsyncClient", "Client", "Query", "ServiceError"]

Query = str | Mapping[int, float] | Mapping[str, float]
"""A text, or a vector: term id -> weight, or token string -> weight for an index of string-keyed
vectors.
"""

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class ServiceError(CspladeError):
    """What the service answered instead of a result.

    Attributes:
        code: name of the gRPC status code, for example ``"INVALID_ARGUMENT"``.
        details: the service's own words.
        request_id: the id under which the service's log speaks of the request; "" when unknown.
        retry_after: seconds to wait before trying again; None when that does not help.
    """

    def __init__(
        self, code: str, details: str, request_id: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(f"{code}: {details}" + (f" (request {request_id})" if request_id else ""))
        self.code, self.details, self.request_id, self.retry_after = (
            code,
            details,
            request_id,
            retry_after,
        )

    @classmethod
    def of(cls, error: grpc.RpcError) -> ServiceError:
        """From the error that grpcio raised."""
        trailing = dict(error.trailing_metadata() or ())
        after = trailing.get("grpc-retry-pushback-ms")
        code, details = error.code().name, error.details() or ""
        return cls(
            code,
            details,
            trailing.get("x-request-id", ""),
            None if after is None else int(after) / 1000,
        )


class Client:
    """A blocking client; safe to share between threads.

    Args:
        target: ``host:port``.
        key: API key, sent as a bearer token.
        tls: whether to speak TLS; implied by any of the following.
        ca: PEM file of the authorities to trust instead of the system's.
        certificate: PEM file of the client's certificate chain, for mutual TLS.
        private_key: PEM file of its key.
        server_name: name to expect in the server's certificate, when it is not the target's.
        timeout: seconds a call may take, unless the call says otherwise; None for no limit of its
            own.
        application: name of the application, where several run on one Ray cluster.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        key: str | None = None,
        tls: bool = False,
        ca: Path | str | None = None,
        certificate: Path | str | None = None,
        private_key: Path | str | None = None,
        server_name: str | None = None,
        timeout: float | None = 60.0,
        application: str | None = None,
    ) -> None:
        credentials, options = _connection(tls, ca, certificate, private_key, server_name)
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, credentials, options)
        self._stub = rpc.RetrievalServiceStub(self._channel)
        self._metadata = _metadata(key, application)
        self.timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        try:
            return method(request, timeout=timeout or self.timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise ServiceError.of(error) from error

    def search(
        self,
        query: Query,
        k: int = 10,
        *,
        explain: bool = False,
        with_document: bool = False,
        allow_partial: bool = False,
        timeout: float | None = None,
    ) -> Answer:
        """Rank the documents of the index for one query.

        Args:
            query: a text or a vector.
            k: how many hits at most.
            explain: add to every hit the terms that made its score.
            with_document: add to every hit title, text and metadata.
            allow_partial: take an answer without the shards that fail; it then names them.
            timeout: seconds, instead of the client's.

        Raises:
            ServiceError: the service refused or failed, or is not there.
        """
        request = _search_request(query, k, explain, with_document, allow_partial)
        return answers.answer(self._call(self._stub.Search, request, timeout))

    def search_many(
        self,
        queries: Iterable[Query],
        k: int = 10,
        *,
        explain: bool = False,
        with_document: bool = False,
        timeout: float | None = None,
    ) -> Iterator[Answer]:
        """Rank for many queries over one stream; answers come in the order of the queries, as they
        are ready.

        Args:
            queries: texts or vectors, read as the service keeps up.
            k: how many hits at most, each.
            explain: as for :meth:`search`.
            with_document: as for :meth:`search`.
            timeout: seconds for the whole stream; by default none.

        Raises:
            ServiceError: the first query that failed, or the stream itself.
        """
        requests = (
            _stream_request(i, query, k, explain, with_document) for i, query in enumerate(queries)
        )
        call = self._stub.SearchStream(requests, timeout=timeout, metadata=self._metadata)
        order = _InOrder()
        try:
            for response in call:
                yield from order.ready(response)
        except grpc.RpcError as error:
            raise ServiceError.of(error) from error
        finally:
            call.cancel()

    def encode(
        self,
        texts: Sequence[str],
        kind: str = "query",
        *,
        decode: bool = False,
        timeout: float | None = None,
    ) -> list[Encoding]:
        """Turn texts into sparse vectors.

        Args:
            texts: as many as the service's ``limits.encode_texts`` allows.
            kind: ``"query"`` or ``"document"``.
            decode: add the terms as token strings.
            timeout: seconds, instead of the client's.

        Raises:
            ServiceError: the service refused or failed, or is not there.
        """
        return answers.encodings(
            self._call(self._stub.Encode, _encode_request(texts, kind, decode), timeout)
        )

    def info(self, *, timeout: float | None = None) -> Info:
        """What is being served: versions, model, index, limits."""
        return answers.info(self._call(self._stub.Info, pb.InfoRequest(), timeout))

    def verify(self, query: Query, k: int = 10, *, timeout: float | None = None) -> Verification:
        """Compare a search with the exhaustive reference."""
        request = pb.VerifyRequest(query=_query(query), k=k)
        return answers.verification(self._call(self._stub.Verify, request, timeout))


class AsyncClient:
    """The same as :class:`Client` for asyncio; see there for arguments and errors."""

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        key: str | None = None,
        tls: bool = False,
        ca: Path | str | None = None,
        certificate: Path | str | None = None,
        private_key: Path | str | None = None,
        server_name: str | None = None,
        timeout: float | None = 60.0,
        application: str | None = None,
    ) -> None:
        credentials, options = _connection(tls, ca, certificate, private_key, server_name)
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options)
        self._stub = rpc.RetrievalServiceStub(self._channel)
        self._metadata = _metadata(key, application)
        self.timeout = timeout

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close()

    async def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        try:
            return await method(request, timeout=timeout or self.timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise ServiceError.of(error) from error

    async def search(
        self,
        query: Query,
        k: int = 10,
        *,
        explain: bool = False,
        with_document: bool = False,
        allow_partial: bool = False,
        timeout: float | None = None,
    ) -> Answer:
        """See :meth:`Client.search`."""
        request = _search_request(query, k, explain, with_document, allow_partial)
        return answers.answer(await self._call(self._stub.Search, request, timeout))

    async def search_many(
        self,
        queries: Iterable[Query] | AsyncIterable[Query],
        k: int = 10,
        *,
        explain: bool = False,
        with_document: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[Answer]:
        """See :meth:`Client.search_many`; ``queries`` may be asynchronous too."""

        async def requests() -> AsyncIterator[pb.SearchStreamRequest]:
            number = 0
            async for query in _asynchronous(queries):
                yield _stream_request(number, query, k, explain, with_document)
                number += 1

        call = self._stub.SearchStream(requests(), timeout=timeout, metadata=self._metadata)
        order = _InOrder()
        try:
            async for response in call:
                for answer in order.ready(response):
                    yield answer
        except grpc.aio.AioRpcError as error:
            raise ServiceError.of(error) from error
        finally:
            call.cancel()

    async def encode(
        self,
        texts: Sequence[str],
        kind: str = "query",
        *,
        decode: bool = False,
        timeout: float | None = None,
    ) -> list[Encoding]:
        """See :meth:`Client.encode`."""
        request = _encode_request(texts, kind, decode)
        return answers.encodings(await self._call(self._stub.Encode, request, timeout))

    async def info(self, *, timeout: float | None = None) -> Info:
        """See :meth:`Client.info`."""
        return answers.info(await self._call(self._stub.Info, pb.InfoRequest(), timeout))

    async def verify(
        self, query: Query, k: int = 10, *, timeout: float | None = None
    ) -> Verification:
        """See :meth:`Client.verify`."""
        request = pb.VerifyRequest(query=_query(query), k=k)
        return answers.verification(await self._call(self._stub.Verify, request, timeout))


class _InOrder:
    """Puts the answers of a stream into the order of its queries; holds at most the server's
    window.
    """

    def __init__(self) -> None:
        self._next = 0
        self._early: dict[int, pb.SearchStreamResponse] = {}

    def ready(self, response: pb.SearchStreamResponse) -> Iterator[Answer]:
        self._early[response.sequence] = response
        while (current := self._early.pop(self._next, None)) is not None:
            if current.HasField("error"):
                error = current.error
                code = _code_name(error.code)
                after = error.retry_after_ms / 1000 if error.HasField("retry_after_ms") else None
                raise ServiceError(
                    code, f"query {self._next} of the stream: {error.message}", "", after
                )
            self._next += 1
            yield answers.answer(current.response)


def _connection(
    tls: bool,
    ca: Path | str | None,
    certificate: Path | str | None,
    private_key: Path | str | None,
    server_name: str | None,
) -> tuple[grpc.ChannelCredentials | None, list[tuple[str, Any]]]:
    options: list[tuple[str, Any]] = list(UNLIMITED)
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    if not tls and ca is None and certificate is None and server_name is None:
        return None, options
    pems = [
        None if path is None else Path(path).read_bytes() for path in (ca, private_key, certificate)
    ]
    return grpc.ssl_channel_credentials(*pems), options


def _metadata(key: str | None, application: str | None) -> tuple[tuple[str, str], ...]:
    pairs = (
        ("authorization", None if key is None else f"Bearer {key}"),
        ("application", application),
    )
    return tuple((name, value) for name, value in pairs if value is not None)


def _query(query: Query) -> pb.Query:
    if isinstance(query, str):
        return pb.Query(text=query)
    terms: list[Any] = list(query)
    values = list(query.values())
    if terms and isinstance(terms[0], str):
        return pb.Query(vector=pb.SparseVector(tokens=terms, values=values))
    return pb.Query(vector=pb.SparseVector(indices=terms, values=values))


def _search_request(
    query: Query, k: int, explain: bool, with_document: bool, allow_partial: bool = False
) -> pb.SearchRequest:
    return pb.SearchRequest(
        query=_query(query),
        k=k,
        explain=explain,
        with_document=with_document,
        allow_partial=allow_partial,
    )


def _stream_request(
    number: int, query: Query, k: int, explain: bool, with_document: bool
) -> pb.SearchStreamRequest:
    return pb.SearchStreamRequest(
        sequence=number, request=_search_request(query, k, explain, with_document)
    )


def _encode_request(texts: Sequence[str], kind: str, decode: bool) -> pb.EncodeRequest:
    return pb.EncodeRequest(texts=texts, kind=f"TEXT_KIND_{kind.upper()}", decode=decode)


def _code_name(number: int) -> str:
    return next((code.name for code in grpc.StatusCode if code.value[0] == number), str(number))


async def _asynchronous(queries: Iterable[Query] | AsyncIterable[Query]) -> AsyncIterator[Query]:
    if isinstance(queries, AsyncIterable):
        async for query in queries:
            yield query
    else:
        for query in queries:
            yield query
