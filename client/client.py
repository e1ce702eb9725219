"""The blocking client; it needs grpcio and protobuf alone.

with Client("localhost:50051") as client:
    for hit in client.search("how do birds navigate", k=5, explain=True):
        print(hit)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import grpc

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
        self._documents = document_rpc.DocumentServiceStub(self._channel)

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
        min_generation: int = 0,
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
            min_generation: Generation that is searched at least: the version that a write returned.
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
            min_generation=min_generation,
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

        return self._answers(messages(), limit, lambda: (sent, failure))

    def _answers(
        self, messages: Iterator[pb.SearchStreamRequest], timeout: float | None, outcome: Any
    ) -> Iterator[Answer]:
        order = InOrder()
        for response in self._stream(self._stub.SearchStream, messages, timeout):
            yield from order.ready(response)
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

    def upsert(
        self,
        documents: Iterable[Document],
        vectors: Iterable[Vector | None] | None = None,
        *,
        if_version: int | None = None,
        timeout: float | None = None,
    ) -> list[WriteResult]:
        """Add documents, or replace those of the same ids, in one call.

        When it returns, the writes are on the service's disk and seen by every later search. The
        same call again is safe: what is stored already is "unchanged".

        Args:
            documents: As many as the service's ``limits.documents`` allows.
            vectors: A ready vector for each document; by default, and for a None among them, the
                service encodes title and text.
            if_version: Version that every stored document must have; 0 if none may be stored.
            timeout: Seconds, instead of the client's.

        Returns:
            One result for each document, in their order; one that is not valid is "failed" alone.

        Raises:
            InputError: an argument that no service accepts.
            ServiceError: the service rejected the call, failed, or is not there; a part of the
                documents may have been written.
        """
        (request,) = requests.upsert_requests(documents, vectors, if_version)
        return results.written(self._call(self._documents.Upsert, request, timeout))

    def upsert_many(
        self,
        documents: Iterable[Document],
        vectors: Iterable[Vector | None] | None = None,
        *,
        batch: int = UPSERT_BATCH,
        timeout: float | None = None,
    ) -> Iterator[WriteResult]:
        """Upsert any number of documents over one stream; yields their results in order.

        An exception of ``documents`` itself is raised after the results of what was sent before it.

        Args:
            documents: Read as fast as the service writes.
            vectors: As for :meth:`upsert`.
            batch: Documents that are written together.
            timeout: Seconds for the whole stream; by default none.

        Raises:
            InputError: an argument that no service accepts.
            ServiceError: a batch failed as a whole, or the stream did.
        """
        limit = None if timeout is None else self._connection.timeout(timeout)
        failure: Exception | None = None

        def messages() -> Iterator[document_pb.UpsertRequest]:
            nonlocal failure
            try:
                yield from requests.upsert_requests(documents, vectors, None, batch)
            except Exception as error:  # gRPC would replace it by an error of its own
                failure = error

        for response in self._stream(self._documents.UpsertStream, messages(), limit):
            yield from results.streamed(response)
        if failure is not None:
            raise failure

    def delete(
        self, ids: Sequence[str], *, if_version: int | None = None, timeout: float | None = None
    ) -> list[WriteResult]:
        """Delete documents; returns one result for each id, "not_found" where there is none.

        Args:
            ids: As many as the service's ``limits.documents`` allows.
            if_version: Version that every stored document must have.
            timeout: Seconds, instead of the client's.

        Raises:
            InputError, ServiceError: as :meth:`upsert`.
        """
        request = requests.delete_request(ids, if_version)
        return results.written(self._call(self._documents.Delete, request, timeout))

    def delete_where(
        self, filter: Filter | Mapping[str, Any], *, timeout: float | None = None
    ) -> int:
        """Delete the documents that a filter holds for; returns how many.

        Args:
            filter: As for :meth:`search`, at least one condition.
            timeout: Seconds, instead of the client's.

        Raises:
            InputError: an argument that no service accepts.
            ServiceError: the service rejected the call, failed, or is not there; a part of the
                documents may have been deleted.
        """
        request = requests.delete_where_request(filter)
        return results.deleted(self._call(self._documents.Delete, request, timeout))

    def get(
        self, ids: Sequence[str], *, with_vector: bool = False, timeout: float | None = None
    ) -> list[StoredDocument | None]:
        """Return the stored document of each id, None where there is none.

        Args:
            ids: As many as the service's ``limits.documents`` allows.
            with_vector: Add the stored vectors.
            timeout: Seconds, instead of the client's.

        Raises:
            InputError: an argument that no service accepts.
            ServiceError: the service rejected the call, failed, or is not there.
        """
        request = requests.get_request(ids, with_vector)
        reply = self._call(self._documents.Get, request, timeout)
        return [results.stored(one) for one in reply.documents]

    def scroll(
        self,
        *,
        filter: Filter | Mapping[str, Any] | None = None,
        page: int = 100,
        with_vector: bool = False,
        timeout: float | None = None,
    ) -> Iterator[StoredDocument]:
        """Yield all documents in order of their last write.

        A document that is written meanwhile moves to the end.

        Args:
            filter: Which documents, as for :meth:`search`; None for all.
            page: Documents that are read together.
            with_vector: Add the stored vectors.
            timeout: Seconds for each page, instead of the client's.

        Raises:
            InputError, ServiceError: as :meth:`get`.
        """
        cursor, more = "", True
        while more:
            request = requests.scroll_request(page, cursor, with_vector, filter)
            reply = self._call(self._documents.Scroll, request, timeout)
            for one in reply.documents:
                if (document := results.stored(one)) is not None:
                    yield document
            cursor = reply.next_cursor
            more = bool(cursor)

    def count(
        self,
        *,
        filter: Filter | Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> int:
        """Return the number of documents, or of those that a filter holds for, exactly."""
        reply = self._call(self._documents.Count, requests.count_request(filter), timeout)
        return int(reply.documents)

    def _stream(self, method: Any, messages: Iterator[Any], timeout: float | None) -> Iterator[Any]:
        """Yield what a stream answers."""
        call = method(messages, timeout=timeout, metadata=self._connection.metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._connection.error(error) from error
        finally:
            call.cancel()

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        seconds = self._connection.timeout(timeout)
        try:
            return method(request, timeout=seconds, metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise self._connection.error(error) from error
