"""The blocking client; it needs grpcio and protobuf alone.

with Client("localhost:50051") as client:
    for hit in client.search("how do birds navigate", k=5, explain=True):
        print(hit)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import grpc

from ..core.filters import Filter
from ..core.results import Answer, Encoding, Explanation, Verification
from ..v1 import retrieval_pb2 as pb
from ..v1 import retrieval_pb2_grpc as rpc
from . import requests, results
from .connection import Connection, ServiceError
from .requests import Query
from .results import Info, InOrder


class Client:
    """A blocking client; safe to share between threads.

    Args:
        target: ``host:port``.
        options: See :class:`.connection.Connection`: key, TLS files, timeout, application.
    """

    def __init__(self, target: str = "localhost:50051", **options: Any) -> None:
        self._connection = Connection(target, **options)
        self._channel = self._connection.channel()
        self._stub = rpc.RetrievalServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls in progress are cancelled."""
        self._channel.close()

    def search(
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
        """Rank the documents of the index for one query.

        Args:
            query: A text or a vector.
            k: Hits at most.
            filter: Which documents may be hits: a :class:`~csplade.core.filters.Filter`, or its
                JSON form as plain values, see :mod:`csplade.core.filters`.
            offset: Hits to pass over: the first ones.
            score_threshold: Smallest score of a hit.
            explain: Add to every hit the terms that made its score.
            with_document: Add to every hit title, text and metadata.
            with_vector: Add to every hit its stored vector.
            allow_partial: Accept an answer without the shards that fail; it names them.
            timeout: Seconds, instead of the client's.

        Raises:
            InputError: an argument that no service accepts.
            ServiceError: the service rejected the query, failed, or is not there.
        """
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
        return results.answer(self._call(self._stub.Search, request, timeout))

    def search_batch(
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
        """Rank for many queries at once, by one message; several calls may be in flight.

        Args:
            queries: As many as the service's ``limits.batch_searches`` allows.
            k: Hits at most, each.
            filter: As for :meth:`search`, as are the others.

        Returns:
            The answer, or the error, of each query, in their order.

        Raises:
            InputError: an argument that no service accepts.
            ServiceError: the service rejected the batch, failed, or is not there.
        """
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
        return results.outcomes(self._call(self._stub.SearchBatch, request, timeout))

    def search_many(
        self,
        queries: Iterable[Query],
        k: int = 10,
        *,
        filter: Filter | Mapping[str, Any] | None = None,
        score_threshold: float | None = None,
        explain: bool = False,
        with_document: bool = False,
        with_vector: bool = False,
        timeout: float | None = None,
    ) -> Iterator[Answer]:
        """Rank for many queries over one stream; yields answers in the order of the queries.

        An exception of ``queries`` itself is raised after the answers to what was sent before it.

        Args:
            queries: Texts or vectors, read as fast as the service answers.
            k: Hits at most, each.
            filter, score_threshold, explain, with_document, with_vector: As for :meth:`search`.
            timeout: Seconds for the whole stream; by default none.

        Raises:
            InputError: an argument that no service accepts.
            ServiceError: the first query that failed, or the stream itself.
        """
        requests.check_queries(queries)
        requests.check_k(k)
        limit = None if timeout is None else self._connection.timeout(timeout)
        sent, failure = 0, None

        def messages() -> Iterator[pb.SearchStreamRequest]:
            nonlocal sent, failure
            try:
                for query in queries:
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

        return self._stream(messages(), limit, lambda: (sent, failure))

    def _stream(
        self, messages: Iterator[pb.SearchStreamRequest], timeout: float | None, outcome: Any
    ) -> Iterator[Answer]:
        call = self._stub.SearchStream(
            messages, timeout=timeout, metadata=self._connection.metadata
        )
        order = InOrder()
        try:
            for response in call:
                yield from order.ready(response)
        except grpc.RpcError as error:
            raise self._connection.error(error) from error
        finally:
            call.cancel()
        sent, failure = outcome()
        if failure is not None:
            raise failure
        order.check_complete(sent)

    def explain(
        self,
        query: Query,
        ids: Sequence[str],
        *,
        with_document: bool = False,
        timeout: float | None = None,
    ) -> list[Explanation]:
        """Return score, contributions and place of documents for one query, ranked or not.

        Args:
            query: See :meth:`search`.
            ids: Ids of documents.
            with_document: Add title, text and metadata.
            timeout: Seconds, instead of the client's.

        Raises:
            InputError: an argument that no service accepts.
            ServiceError: the service rejected the query, failed, or is not there.
        """
        request = requests.explain_request(query, ids, with_document)
        return results.explanations(self._call(self._stub.Explain, request, timeout))

    def encode(
        self,
        texts: Sequence[str],
        kind: str = "query",
        *,
        decode: bool = False,
        timeout: float | None = None,
    ) -> list[Encoding]:
        """Encode texts to sparse vectors.

        Args:
            texts: As many as the service's ``limits.encode_texts`` allows.
            kind: ``"query"`` or ``"document"``.
            decode: Add the terms as token strings.
            timeout: Seconds, instead of the client's.

        Raises:
            InputError: an argument that no service accepts.
            ServiceError: the service rejected the texts, failed, or is not there.
        """
        request = requests.encode_request(texts, kind, decode)
        return results.encodings(self._call(self._stub.Encode, request, timeout))

    def info(self, *, timeout: float | None = None) -> Info:
        """Return what is served: versions, model, index, limits."""
        return results.info(self._call(self._stub.Info, pb.InfoRequest(), timeout))

    def verify(
        self,
        query: Query,
        k: int = 10,
        *,
        filter: Filter | Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Verification:
        """Compare a search with the exhaustive reference."""
        request = requests.verify_request(query, k, filter)
        return results.verification(self._call(self._stub.Verify, request, timeout))

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        seconds = self._connection.timeout(timeout)
        try:
            return method(request, timeout=seconds, metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise self._connection.error(error) from error
