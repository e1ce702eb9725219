"""The plan of a batch: tokenize, encode, quantize, rank, fetch.

:meth:`Collection.search` runs it for its caller, :class:`LocalBackend` in the batching worker. The
steps of a task fill its fields one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..core.document import Document, TextKind
from ..core.filters import Filter
from ..core.results import Answer, Contribution, Cut, Encoding, Hit, Hits
from ..core.vectors import ImpactBatch, SparseBatch, Vector
from ..index import SearchResult, Selection, Snapshot
from .backend import Query
from .deadline import Deadline
from .observer import Observer

if TYPE_CHECKING:
    from ..model.tokens import Encoded, Tokens
    from .collection import Collection

KINDS: tuple[TextKind, ...] = ("query", "document")


@dataclass(eq=False, slots=True)
class SearchTask:
    """One text to encode, or one query to encode and rank.

    Attributes:
        query: What is asked for. ``query.k`` is 0 for a text that is only encoded.
        kind: The side of a search that the text stands for.
        deadline: Ranking stops for tasks whose deadline passed; they keep no result.
        tokens: Of the text, once tokenized.
        vector: The query's, or made of the text.
        tokens_read: Tokens of the text that were encoded.
        dropped_tokens, dropped_terms: What caps removed so far.
        impacts: Queries of the batch as integers; ``row`` is this task's.
        result: Hits of the batch, likewise.
        snapshot: State of the index that ranked it; everything about its hits comes from there.
        answer: Once fetched.
        timings: Nanoseconds by stage.
    """

    query: Query
    kind: TextKind = "query"
    deadline: Deadline | None = None
    tokens: Tokens | None = None
    vector: Vector | None = None
    tokens_read: int = 0
    dropped_tokens: int = 0
    dropped_terms: int = 0
    impacts: ImpactBatch | None = None
    result: SearchResult | None = None
    snapshot: Snapshot | None = None
    row: int = 0
    answer: Answer | None = None
    timings: dict[str, int] = field(default_factory=dict)

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for the task."""
        return self.deadline is None or not self.deadline.expired

    @property
    def cut(self) -> Cut:
        """What caps removed from the text or query."""
        unknown = self.query.unknown_terms
        return Cut(self.dropped_tokens, self.dropped_terms + unknown, 0)


class Plan:
    """The steps of a batch on one collection. Safe to use from several threads at once.

    Args:
        collection: Index and encoder.
        observer: Receives durations and counts.
    """

    def __init__(self, collection: Collection, observer: Observer) -> None:
        self._collection, self._observer = collection, observer

    def tokenize(self, tasks: Sequence[SearchTask]) -> None:
        """Set the tokens of the tasks that have a text."""
        for kind in KINDS:
            texts = [task for task in tasks if task.query.text is not None and task.kind == kind]
            if not texts:
                continue
            started = time.perf_counter_ns()
            encoder = self._collection.require_encoder()
            tokens = encoder.tokenize([task.query.text or "" for task in texts], kind)
            spent = time.perf_counter_ns() - started
            self._observer.stages({"tokenize": spent})
            for row, task in enumerate(texts):
                task.tokens = tokens.take([row])
                task.timings["tokenize"] = spent

    def run(self, tasks: Sequence[SearchTask]) -> None:
        """Encode the tokenized texts, then rank all queries of the batch on one snapshot."""
        now = self._collection.index.snapshot
        for task in tasks:
            if task.query.vector is not None:
                task.vector = task.query.vector
        for kind in KINDS:
            texts = [task for task in tasks if task.tokens is not None and task.kind == kind]
            if self._collection.on_one_device:
                queries = [task for task in texts if task.query.k]
                if queries:
                    self._encode_and_rank(queries, kind, now)
                texts = [task for task in texts if not task.query.k]
            if texts:
                self._encode(texts, kind)
        queries = [task for task in tasks if task.query.k and task.result is None and task.wanted]
        if queries:
            self._rank(queries, now)

    def answer(self, task: SearchTask) -> Answer:
        """Fetch ids, documents and contributions of a ranked query."""
        assert task.impacts is not None
        assert task.result is not None
        assert task.snapshot is not None
        started = time.perf_counter_ns()
        hits = self.hits(task)
        spent = time.perf_counter_ns() - started
        self._observer.stages({"fetch": spent})
        return Answer(
            hits=hits,
            matched=int(task.result.matched[task.row]),
            postings=int(task.result.postings[task.row]),
            query_terms=len(task.impacts.row(task.row)[0]),
            cut=task.cut,
            timings={**task.timings, "fetch": spent},
            generation=task.snapshot.generation,
            model_fingerprint=self._collection.info.model_fingerprint,
        )

    def encoding(self, task: SearchTask) -> Encoding:
        """Return the vector of an encoded text."""
        assert task.vector is not None
        terms, weights = task.vector
        return Encoding(
            terms=terms,  # type: ignore[arg-type]
            weights=weights,  # type: ignore[arg-type]
            tokens_read=task.tokens_read,
            cut=task.cut,
            timings=task.timings,
        )

    def attributed(self, tasks: Sequence[SearchTask]) -> list[Encoding]:
        """Return the vectors of encoded texts of one kind, and the token that made each term."""
        encoder, tokens = self._collection.require_encoder(), _tokens(tasks)
        vectors = SparseBatch.join([task.vector for task in tasks if task.vector is not None])
        sources = encoder.sources(tokens, tasks[0].kind, vectors)
        return [
            replace(self.encoding(task), text_tokens=ids.tolist(), sources=one.tolist())
            for task, ids, one in zip(tasks, tokens.ids, sources, strict=True)
        ]

    def reference(self, task: SearchTask) -> tuple[Answer, int]:
        """Rank a task's query again by the exhaustive reference.

        Returns:
            The reference's answer, and the nanoseconds that ranking took.
        """
        assert task.impacts is not None
        assert task.snapshot is not None
        terms, impacts = task.impacts.row(task.row)
        alone = ImpactBatch.join([(terms, impacts)], task.impacts.scales[task.row])
        started = time.perf_counter_ns()
        now, query = task.snapshot, task.query
        result = now.oracle(alone, query.depth, query.filter)
        spent = time.perf_counter_ns() - started
        return self.answer(SearchTask(query, impacts=alone, result=result, snapshot=now)), spent

    def rank_impacts(
        self, tasks: Sequence[SearchTask], impacts: ImpactBatch, now: Snapshot | None = None
    ) -> None:
        """Rank queries of one filter, given as integers; row i is that of task i.

        Args:
            tasks, impacts: of the batch.
            now: the snapshot to search; None for the current one.
        """
        now = now or self._collection.index.snapshot
        k = max(task.query.depth for task in tasks)
        mask = _mask(tasks[0].query.filter, now)
        self._ranked(tasks, impacts, now.search(impacts, k, mask, wanted=_wanted(tasks)), now)

    def _score_scale(self, task: SearchTask) -> float:
        """Return the weight of one step of an integer score of the task's query."""
        assert task.impacts is not None
        assert task.snapshot is not None
        return float(task.impacts.scales[task.row]) * task.snapshot.manifest.step

    def hits(self, task: SearchTask) -> Hits:
        """Fetch the hits of a ranked query, with what else it asks for."""
        assert task.impacts is not None
        assert task.result is not None
        assert task.snapshot is not None
        index, query, result = task.snapshot, task.query, task.result
        scale = self._score_scale(task)
        shards, ordinals, scores = (
            column[query.offset : query.depth] for column in result.row(task.row)
        )
        if query.score_threshold is not None:
            kept = int(np.count_nonzero(scores * scale >= query.score_threshold))  # they descend
            shards, ordinals, scores = shards[:kept], ordinals[:kept], scores[:kept]
        documents: list[Document] = []
        if query.with_document:
            documents = index.fetch(shards, ordinals)
            ids = [document.id for document in documents]
        else:
            ids = index.ids(shards, ordinals)
        reasons: list[tuple[Contribution, ...]] = []
        vectors: list[dict[int, float]] = []
        if query.explain or query.with_vector:
            stored = index.vectors(shards, ordinals)
            if query.explain:
                asked = task.impacts.row(task.row)
                reasons = [self._contributions(*asked, *one, scale) for one in stored]
            if query.with_vector:
                step = index.manifest.step
                vectors = [
                    dict(zip(terms.tolist(), (impacts * step).tolist(), strict=True))
                    for terms, impacts in stored
                ]
        columns = (scores.tolist(), shards.tolist(), scale, ordinals.tolist())
        versions = index.versions(shards, ordinals)
        return Hits(ids, *columns, documents, reasons, vectors, versions)

    def explain(
        self, task: SearchTask, ids: Sequence[str], *, with_document: bool
    ) -> dict[str, Hit]:
        """Score the documents of these ids for a quantized query, whether or not it ranks them."""
        assert task.impacts is not None
        assert task.snapshot is not None
        index = task.snapshot
        places = index.find(ids)
        shards, ordinals = zip(*places.values(), strict=True) if places else ((), ())
        documents: Sequence[Document | None] = [None] * len(places)
        if with_document:
            documents = index.fetch(shards, ordinals)
        scale = self._score_scale(task)
        stored, asked = index.vectors(shards, ordinals), task.impacts.row(task.row)
        versions = index.versions(shards, ordinals)
        hits = {}
        for row, (id, (shard, ordinal)) in enumerate(places.items()):
            why = self._contributions(*asked, *stored.row(row), scale)
            score = sum(one.product for one in why)
            hits[id] = Hit(
                id,
                score * scale,
                score,
                shard,
                ordinal,
                documents[row],
                why,
                version=versions[row],
            )
        return hits

    def _contributions(
        self,
        query_terms: NDArray[np.int32],
        query_impacts: NDArray[np.int32],
        document_terms: NDArray[np.int32],
        document_impacts: NDArray[np.int32],
        scale: float,
    ) -> tuple[Contribution, ...]:
        shared, in_query, in_document = np.intersect1d(
            query_terms, document_terms, assume_unique=True, return_indices=True
        )
        of_query = query_impacts[in_query].astype(np.int64)
        of_document = document_impacts[in_document].astype(np.int64)
        products = of_query * of_document
        order = np.lexsort((shared, -products))
        columns = (column[order].tolist() for column in (shared, of_query, of_document, products))
        token = self._collection.info.token
        return tuple(
            Contribution(term, token(term), query_impact, document_impact, product, product * scale)
            for term, query_impact, document_impact, product in zip(*columns, strict=True)
        )

    def _encode(self, tasks: Sequence[SearchTask], kind: TextKind) -> None:
        encoder = self._collection.require_encoder()
        self._encoded(tasks, encoder.encode_tokens(_tokens(tasks), kind))

    def _encode_and_rank(self, tasks: Sequence[SearchTask], kind: TextKind, now: Snapshot) -> None:
        k = max(task.query.depth for task in tasks)
        masks = [(_mask(one, now), rows) for one, rows in _by_filter(tasks)]
        plan = self._collection.device_plan(now)
        ranked = plan.rank(_tokens(tasks), kind, k, masks, _wanted(tasks))
        self._encoded(tasks, ranked.encoded)
        self._ranked(tasks, ranked.queries, ranked.result, now)

    def _encoded(self, tasks: Sequence[SearchTask], encoded: Encoded) -> None:
        self._observer.stages(encoded.timings)
        for i, task in enumerate(tasks):
            task.vector = encoded.vectors.row(i)
            task.tokens_read = int(encoded.tokens[i])
            task.dropped_tokens = int(encoded.dropped_tokens[i])
            task.dropped_terms = int(encoded.dropped_terms[i])
            task.timings.update(encoded.timings)
        self._observer.cut(
            Cut(int(encoded.dropped_tokens.sum()), int(encoded.dropped_terms.sum()), 0)
        )

    def _rank(self, tasks: Sequence[SearchTask], now: Snapshot) -> None:
        for _, rows in _by_filter(tasks):
            group = [tasks[row] for row in rows]
            vectors = SparseBatch.join([task.vector for task in group if task.vector])
            self.rank_impacts(group, self._collection.quantize(vectors, now), now)

    def _ranked(
        self,
        tasks: Sequence[SearchTask],
        impacts: ImpactBatch,
        result: SearchResult,
        snapshot: Snapshot,
    ) -> None:
        self._observer.stages(result.timings)
        terms = np.diff(impacts.indptr).tolist()
        for row, task in enumerate(tasks):
            task.impacts, task.row, task.snapshot = impacts, row, snapshot
            if not task.wanted:
                continue  # its hits may be incomplete
            task.result = result
            task.timings.update(result.timings)
            self._observer.ranked(terms[row], int(result.postings[row]))
        if any(task.query.filter is not None for task in tasks):
            filters = snapshot.filters
            self._observer.filtered(*filters.take_counts(), filters.nbytes)
        self._observer.cut(Cut(0, sum(task.query.unknown_terms for task in tasks), 0))


def _mask(filter: Filter | None, now: Snapshot) -> Selection | None:
    return None if filter is None else now.mask(filter)


def _by_filter(tasks: Sequence[SearchTask]) -> list[tuple[Filter | None, list[int]]]:
    """Return the filters of tasks, each with the places of its tasks."""
    groups: dict[Filter | None, list[int]] = {}
    for place, task in enumerate(tasks):
        groups.setdefault(task.query.filter, []).append(place)
    return list(groups.items())


def _wanted(tasks: Sequence[SearchTask]) -> Callable[[int], bool]:
    return lambda i: tasks[i].wanted


def _tokens(tasks: Sequence[SearchTask]) -> Tokens:
    parts = [task.tokens for task in tasks if task.tokens is not None]
    return type(parts[0]).concatenate(parts)
