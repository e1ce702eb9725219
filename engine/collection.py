"""The engine: text or vectors in, hits out, in one process.

:meth:`Collection.search` does it all at once; the server's batching worker calls the same steps one by
one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..core.document import Document
from ..core.errors import IncompatibleError
from ..core.vectors import MAX_QUERY_IMPACT, ImpactBatch, SparseBatch, offsets
from ..index import Index, SearchResult

if TYPE_CHECKING:
    from ..model import Encoder
    from ..model.tokens import Kind, Tokens
    from .device_plan import Ranked

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contribution:
    """What one shared term adds to a score: ``product = query_impact * document_impact``."""

    term: int
    token: str
    query_impact: int
    document_impact: int
    product: int


@dataclass(frozen=True)
class Hit:
    """One document of an answer.

    Attributes:
        id: as given at indexing.
        score: ``score_int * query scale * document scale``.
        score_int: the exact score.
        shard, ordinal: where the index keeps it.
        document: title, text and metadata, when fetched.
        contributions: when explained; by product descending, then term ascending; they sum to
            ``score_int``.
    """

    id: str
    score: float
    score_int: int
    shard: int
    ordinal: int
    document: Document | None = None
    contributions: tuple[Contribution, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """Hits of one query, best first.

    Attributes:
        hits: score descending, then order of arrival.
        matched: documents that share a term with the query.
        postings: postings read.
        query_terms: terms of the query as scored.
        dropped_tokens, dropped_terms, clipped: tokens, terms and impacts of the query that a cap
            cut.
        timings: stage -> nanoseconds; queries answered together share all but ``fetch``.
        missing_shards: shards that did not answer, ascending; never without the caller's leave.
    """

    hits: list[Hit]
    matched: int
    postings: int
    query_terms: int
    dropped_tokens: int = 0
    dropped_terms: int = 0
    clipped: int = 0
    timings: dict[str, int] = field(default_factory=dict)
    missing_shards: tuple[int, ...] = ()


class Collection:
    """An index and the encoder that it was built with.

    Args:
        index: an open index.
        encoder: None to search with vectors only.

    Raises:
        IncompatibleError: the index was built by another encoder.
    """

    def __init__(self, index: Index, encoder: Encoder | None = None) -> None:
        self.index, self.encoder = index, encoder
        if encoder is not None:
            _check_together(index, encoder)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        model: str | None = None,
        with_encoder: bool = True,
        device: str = "auto",
        quantization: str = "auto",
        encoder_threads: int | None = None,
        index_threads: int | None = None,
        index_device: str = "cpu",
        shards: Sequence[int] | None = None,
    ) -> Self:
        """Open an index and load its encoder.

        Args:
            path: directory of the index.
            model: directory or name of the model; None for the one that the index names, if it
                names one.
            with_encoder: False loads none: only vectors can be searched then.
            device, quantization, encoder_threads: for the encoder.
            index_threads: for the CPU scorer; None for all cores.
            index_device: where to score: "cpu", "cuda", "cuda:1" ..., or "auto" for a GPU where
                there is one.
            shards: numbers of the shards to open; None for all.

        Raises:
            InputError: no such model.
            CorruptError: no index there, or one that is torn or altered.
            IncompatibleError: the index was built by another encoder.
            UnavailableError: the index does not fit into the device's memory.
        """
        index = Index.open(path, threads=index_threads, shards=shards, device=index_device)
        try:
            named = model or (index.manifest.encoder or {}).get("model")
            if not with_encoder or named is None:
                return cls(index)
            from ..model import Encoder

            encoder = Encoder.from_pretrained(
                named, device=device, quantization=quantization, threads=encoder_threads
            )
            return cls(index, encoder)
        except BaseException:
            index.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the index."""
        self.index.close()

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the encoder the index was built with; "" for ready vectors."""
        return (self.index.manifest.encoder or {}).get("fingerprint", "")

    @property
    def score_scale(self) -> float:
        """Weight of one step of an integer score."""
        return self.index.manifest.query_scale * self.index.manifest.document_scale

    @cached_property
    def terms_by_token(self) -> dict[str, int]:
        """Term of each token string; empty unless the index was built from vectors keyed by
        strings.
        """
        return {token: term for term, token in enumerate(self.index.manifest.vocabulary or ())}

    def token(self, term: int) -> str:
        """A term in letters; "" when neither a vocabulary nor an encoder can tell."""
        if (vocabulary := self.index.manifest.vocabulary) is not None:
            return vocabulary[term]
        return self.encoder.token(term) if self.encoder is not None else ""

    def need_encoder(self) -> Encoder:
        """The encoder.

        Raises:
            IncompatibleError: none is loaded.
        """
        if self.encoder is None:
            raise IncompatibleError(
                "text cannot be encoded: no encoder is loaded; search with vectors, or start with "
                "a model"
            )
        return self.encoder

    @property
    def together(self) -> bool:
        """Whether encoder and index are on one torch device, so that :meth:`rank_tokens` can chain
        them.
        """
        if self.encoder is None or self.index.tensors is None:
            return False
        name, device = self.encoder.device, self.index.tensors.device
        return name == str(device) or (name == device.type and device.index in (None, 0))

    def rank_tokens(self, tokens: Tokens, kind: Kind, k: int) -> Ranked:
        """Encode texts and rank documents for them on the device they share; see
        :func:`.fused.rank`.
        """
        from .device_plan import rank  # torch and transformers, as above

        return rank(self.need_encoder(), self.index, tokens, kind, k)

    def search(
        self,
        queries: Sequence[str] | SparseBatch | ImpactBatch,
        k: int,
        *,
        explain: bool = False,
        fetch: bool = True,
    ) -> list[Answer]:
        """Rank the documents of the index for every query.

        Args:
            queries: texts, weights, or impacts.
            k: hits at most per query, 1 to 10,000.
            explain: add contributions to hits.
            fetch: add documents to hits.

        Raises:
            InputError: ``k`` or a query out of the index's bounds.
            IncompatibleError: texts, but no encoder.
        """
        timings: dict[str, int] = {}
        dropped_tokens = dropped_terms = clipped = np.zeros(len(queries), dtype=np.int64)
        result = None
        if not isinstance(queries, SparseBatch | ImpactBatch):
            encoder, started = self.need_encoder(), time.perf_counter_ns()
            tokens = encoder.tokenize(list(queries), "query")
            timings["tokenize"] = time.perf_counter_ns() - started
            if self.together:
                ranked = self.rank_tokens(tokens, "query", k)
                encoded, queries, clipped, result = (
                    ranked.encoded,
                    ranked.queries,
                    ranked.clipped,
                    ranked.result,
                )
            else:
                encoded = encoder.encode_tokens(tokens, "query")
                queries = encoded.vectors
            dropped_tokens, dropped_terms = encoded.dropped_tokens, encoded.dropped_terms
            timings.update(encoded.timings)
        if isinstance(queries, SparseBatch):
            queries, clipped = self.quantize(queries)
        if result is None:
            result = self.index.search(queries, k)
        timings.update(result.timings)
        answers = []
        for row in range(len(queries)):
            started = time.perf_counter_ns()
            hits = self.hits(queries, result, row, k, explain=explain, fetch=fetch)
            answers.append(
                Answer(
                    hits=hits,
                    matched=int(result.matched[row]),
                    postings=int(result.postings[row]),
                    query_terms=len(queries.row(row)[0]),
                    dropped_tokens=int(dropped_tokens[row]),
                    dropped_terms=int(dropped_terms[row]),
                    clipped=int(clipped[row]),
                    timings={**timings, "fetch": time.perf_counter_ns() - started},
                )
            )
        return answers

    def quantize(self, vectors: SparseBatch) -> tuple[ImpactBatch, NDArray[np.int64]]:
        """Queries as impacts at the index's query scale, and the number of clipped impacts of each."""
        scale = self.index.manifest.query_scale
        impacts = vectors.quantize(scale, MAX_QUERY_IMPACT)
        if not impacts.clipped:
            return impacts, np.zeros(len(vectors), dtype=np.int64)
        over = np.rint(vectors.weights.astype(np.float64) / scale) > MAX_QUERY_IMPACT
        return impacts, np.diff(offsets(over)[vectors.indptr])

    def hits(
        self,
        queries: ImpactBatch,
        result: SearchResult,
        row: int,
        k: int,
        *,
        explain: bool,
        fetch: bool,
    ) -> list[Hit]:
        """The first ``k`` hits of one query of a result, with ids, and what else was asked for."""
        first = int(result.indptr[row])
        span = slice(first, min(first + k, int(result.indptr[row + 1])))
        shards, ordinals, scores = result.shards[span], result.ordinals[span], result.scores[span]
        documents: list[Document] | list[None] = [None] * len(scores)
        if fetch:
            documents = self.index.fetch(shards, ordinals)
            ids = [document.id for document in documents]
        else:
            ids = self.index.ids(shards, ordinals)
        reasons: list[tuple[Contribution, ...]] | list[None] = [None] * len(scores)
        if explain:
            stored = self.index.vectors(shards, ordinals)
            reasons = [
                self._contributions(*queries.row(row), *stored.row(i)) for i in range(len(scores))
            ]
        scale = queries.scale * self.index.manifest.document_scale
        return [
            Hit(identity, score * scale, score, shard, ordinal, document, reason)
            for identity, score, shard, ordinal, document, reason in zip(
                ids,
                scores.tolist(),
                shards.tolist(),
                ordinals.tolist(),
                documents,
                reasons,
                strict=True,
            )
        ]

    def _contributions(
        self,
        query_terms: NDArray[Any],
        query_impacts: NDArray[Any],
        document_terms: NDArray[Any],
        document_impacts: NDArray[Any],
    ) -> tuple[Contribution, ...]:
        shared, in_query, in_document = np.intersect1d(
            query_terms, document_terms, assume_unique=True, return_indices=True
        )
        of_query = query_impacts[in_query].astype(np.int64)
        of_document = document_impacts[in_document].astype(np.int64)
        products = of_query * of_document
        order = np.lexsort((shared, -products))
        columns = (column[order].tolist() for column in (shared, of_query, of_document, products))
        return tuple(
            Contribution(term, self.token(term), query_impact, document_impact, product)
            for term, query_impact, document_impact, product in zip(*columns, strict=True)
        )


def _check_together(index: Index, encoder: Encoder) -> None:
    built_with = (index.manifest.encoder or {}).get("fingerprint")
    if built_with is None:
        if (
            index.manifest.vocabulary is not None
            or index.manifest.vocabulary_size != encoder.vocabulary_size
        ):
            raise IncompatibleError(
                f"the index holds ready vectors over {index.manifest.vocabulary_size} terms of "
                "its own, "
                f"the encoder {encoder.name} has {encoder.vocabulary_size} others; open it "
                "without a model"
            )
        log.warning(
            "the index holds ready vectors: nothing tells whether %s made them", encoder.name
        )
    elif built_with != encoder.fingerprint:
        raise IncompatibleError(
            f"the index was built by another encoder: its fingerprint is {built_with[:16]}, that "
            "of "
            f"{encoder.name} is {encoder.fingerprint[:16]}; load the encoder that built it, or "
            "build it again"
        )
