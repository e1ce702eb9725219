"""The contract between transports and engines.

A transport (gRPC in one process, gRPC on Ray, HTTP) turns a request into a :class:`Query`, awaits a
:class:`SearchBackend` and turns the result into a response. It knows nothing of the engine's
insides, and the engine knows no transport. ``LocalBackend`` (``engine/local.py``) runs everything
in this process; ``RayBackend`` (``service/ray/backend.py``) asks replicas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from ..core.document import TextKind
from ..core.errors import IncompatibleError
from ..core.filters import Filter
from ..core.results import (
    Answer,
    Encoding,
    Explanation,
    StoredDocument,
    Verification,
    WriteResult,
)
from ..core.vectors import SparseBatch, Vector
from ..index import IndexManifest, TermStatistics, Upsert
from .deadline import Deadline


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One search, checked by the transport. Exactly one of ``text`` and ``vector`` is set.

    Attributes:
        text: Text to encode as a query.
        vector: A ready vector.
        k: Hits at most; with ``offset`` 1 to 10,000.
        offset: Hits that are passed over: the first ones.
        filter: Which documents may be hits, resolved; None for all.
        score_threshold: Smallest score of a hit; None for any.
        explain: Add contributions to the hits.
        with_document: Add documents to the hits.
        with_vector: Add the stored vectors to the hits.
        allow_partial: Accept an answer without the shards that fail, where shards can fail alone.
        unknown_terms: Terms that the transport dropped because the collection does not have them.
        min_generation: Generation that must be searched at least; 0 for any.
    """

    text: str | None = None
    vector: Vector | None = None
    k: int = 10
    offset: int = 0
    filter: Filter | None = None
    score_threshold: float | None = None
    explain: bool = False
    with_document: bool = False
    with_vector: bool = False
    allow_partial: bool = False
    unknown_terms: int = 0
    min_generation: int = 0

    @property
    def depth(self) -> int:
        """Hits to rank: those that are asked for, and those before them."""
        return self.offset + self.k


@dataclass(frozen=True)
class EncoderInfo:
    """Identity and rules of an encoder.

    Attributes:
        name: Name or path that it was loaded by.
        fingerprint: Fingerprint of its manifest.
        device: Where it runs.
        query_encoder: What makes queries: "lexical", "model" or "both".
        manifest: Its manifest as plain values, without golden vectors.
        tokens: Token string of each term.
    """

    name: str
    fingerprint: str
    device: str
    query_encoder: str
    manifest: Mapping[str, Any] = field(repr=False)
    tokens: Sequence[str] = field(repr=False)

    @property
    def vocabulary_size(self) -> int:
        """Number of terms."""
        return len(self.tokens)


@dataclass(frozen=True)
class CollectionInfo:
    """What a collection is.

    Attributes:
        index: Its index.
        encoder: The encoder, if one is loaded.
        statistics: Counts that the index's query modifier needs; None if it has none.
        writable: Whether documents can be written.
    """

    index: IndexManifest
    encoder: EncoderInfo | None = None
    statistics: TermStatistics | None = field(default=None, repr=False)
    writable: bool = False

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the encoder that the index was built with; "" for ready vectors."""
        return self.index.fingerprint or ""

    def at(self, index: IndexManifest, statistics: TermStatistics | None) -> CollectionInfo:
        """Return the same collection with its index in another state."""
        other = replace(self, index=index, statistics=statistics)
        if "terms_by_token" in vars(self):  # the tokens stay the same
            vars(other)["terms_by_token"] = self.terms_by_token
        return other

    @cached_property
    def terms_by_token(self) -> Mapping[str, int]:
        """Term of each token string; empty if neither the index nor an encoder has token strings.

        The first of several terms with the same token string counts.
        """
        tokens = self._tokens or ()
        return {token: term for term, token in reversed(list(enumerate(tokens)))}

    def token(self, term: int) -> str:
        """Return a term as a token string; "" if neither the index nor an encoder knows it."""
        tokens = self._tokens
        return "" if tokens is None else tokens[term]

    def require_encoder(self) -> EncoderInfo:
        """Return the encoder.

        Raises:
            IncompatibleError: none is loaded.
        """
        if self.encoder is None:
            raise IncompatibleError(
                "query.text: no encoder is loaded; search with vectors, or start with a model"
            )
        return self.encoder

    def modify(self, queries: SparseBatch) -> SparseBatch:
        """Return the weights of queries as they are ranked, after the index's query modifier."""
        return queries if self.statistics is None else self.statistics.weigh(queries)

    @property
    def _tokens(self) -> Sequence[str] | None:
        if self.index.vocabulary is not None:
            return self.index.vocabulary
        return None if self.encoder is None else self.encoder.tokens


class SearchBackend(Protocol):
    """Answers searches of one collection; every method may be awaited by many callers at once.

    All methods raise OverloadedError (queue full), DeadlineError, UnavailableError (closing, or a
    part does not answer), and IncompatibleError (a text without an encoder).
    """

    @property
    def info(self) -> CollectionInfo:
        """What is searched now."""

    async def search(self, query: Query, deadline: Deadline) -> Answer:
        """Rank the documents of the collection for one query.

        Raises:
            IncompatibleError: also if the collection does not reach ``query.min_generation``.
        """

    async def search_batch(
        self, queries: Sequence[Query], deadline: Deadline
    ) -> list[Answer | Exception]:
        """Rank for many queries together; return the answer or the error of each, in their order.

        Raises:
            OverloadedError: they do not all fit into the queue; none was enqueued.
        """

    async def encode(
        self,
        texts: Sequence[str],
        kind: TextKind,
        deadline: Deadline,
        *,
        attribution: bool = False,
    ) -> list[Encoding]:
        """Encode texts to sparse vectors; with attribution, tell which token made each term."""

    async def explain(
        self, query: Query, ids: Sequence[str], deadline: Deadline
    ) -> tuple[Answer, tuple[Explanation, ...]]:
        """Return the ranking of one query, without documents, and the explanation of each id."""

    async def verify(self, query: Query, deadline: Deadline) -> Verification:
        """Compare the answer of one query with that of the exhaustive reference.

        Raises:
            OverloadedError: another verification is in progress.
        """


@dataclass(frozen=True)
class Written:
    """What became of the documents of one write.

    Attributes:
        results: One for each document, in their order.
        generation: Of the collection; it holds these writes.
    """

    results: tuple[WriteResult, ...]
    generation: int


@dataclass(frozen=True)
class Page:
    """A page of documents.

    Attributes:
        documents: In order of arrival, the order of their last write; fewer than were asked for
            at the end only. The next page begins after the arrival of the last one.
        generation: Of the collection that was read.
    """

    documents: tuple[StoredDocument, ...]
    generation: int


class DocumentBackend(Protocol):
    """Writes and reads documents of one collection; many callers may await every method at once.

    All methods raise DeadlineError, OverloadedError and UnavailableError. A write that ends with
    an error, or whose caller leaves, may have written a part of its documents.
    """

    @property
    def info(self) -> CollectionInfo:
        """What the collection is now."""

    async def upsert(self, items: Sequence[Upsert], deadline: Deadline) -> Written:
        """Add documents or replace those of the same ids; encode those that need a vector.

        When it returns, the writes are on the disk and seen by every later search. A document that
        is not valid fails alone.

        Raises:
            IncompatibleError: the collection is not open for writing.
        """

    async def delete(
        self, ids: Sequence[str], if_version: int | None, deadline: Deadline
    ) -> Written:
        """Delete documents, all of them of a version if one is given.

        Raises:
            IncompatibleError: the collection is not open for writing.
        """

    async def get(
        self, ids: Sequence[str], deadline: Deadline, *, vectors: bool = False
    ) -> tuple[list[StoredDocument | None], int]:
        """Return the document of each id, None where there is none, and the generation."""

    async def delete_where(self, filter: Filter, deadline: Deadline) -> tuple[Written, int]:
        """Delete the documents that a resolved filter holds for when this begins.

        One that is written meanwhile stays.

        Returns:
            The results of those that failed, and the number of those that were deleted.

        Raises:
            IncompatibleError: the collection is not open for writing.
        """

    async def scroll(
        self,
        after: int,
        limit: int,
        deadline: Deadline,
        *,
        filter: Filter | None = None,
        vectors: bool = False,
    ) -> Page:
        """Return the first documents after an arrival, of those that a resolved filter holds for.

        -1 begins with the first one.
        """

    async def count(self, deadline: Deadline, *, filter: Filter | None = None) -> tuple[int, int]:
        """Return the number of documents that a resolved filter holds for, and the generation."""
