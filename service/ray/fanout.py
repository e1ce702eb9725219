"""Fanout: answer a query by one version of encoder and shards: encode, search, merge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.document import TextKind
from ...core.errors import InternalError, UnavailableError
from ...core.filters import Filter
from ...core.results import (
    Answer,
    Contribution,
    Cut,
    Encoding,
    Explanation,
    Hit,
    Hits,
    StoredDocument,
    Verification,
)
from ...core.vectors import SparseBatch
from ...engine.backend import CollectionInfo, Page, Query
from ...engine.deadline import Deadline
from ...engine.policy import INLINE_TEXT
from ..settings import Settings
from ..telemetry import logs
from ..telemetry.metrics import Metrics
from .deployment import DeploymentClient
from .look_up import LookUp
from .message_batcher import MessageBatcher
from .messages import Call, Detail, ShardQuery, ShardRanking

# Postings of one search. More are milliseconds of work, beside which a message costs little.
HEAVY_POSTINGS = 5_000_000
# Messages to a deployment in flight when its work is heavy, so that all of its replicas have some.
HEAVY_MESSAGES = 16
# Hits of all shards that bring their documents along, some in vain: a second message costs more.
DETAILED_HITS = 200


class _Request(NamedTuple):
    """What one request asks of a deployment."""

    deadline: Deadline
    request_id: str
    arguments: tuple[Any, ...]


class Fanout:
    """One version of a collection on Ray.

    Args:
        version: Its name.
        info: What it is.
        encoder: None if only vectors can be searched.
        look_up: Encodes short queries here; None if a network makes them.
        shards: In order of their numbers.
        settings: All settings.
        metrics: Where the ingress's own stages are recorded.
    """

    def __init__(
        self,
        version: str,
        info: CollectionInfo,
        encoder: DeploymentClient | None,
        look_up: LookUp | None,
        shards: Sequence[DeploymentClient],
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.version, self.info = version, info
        self._encoder, self._look_up, self._shards = encoder, look_up, shards
        self._metrics = metrics
        self._queue = settings.batching.queue
        self._searches = [
            self._batcher(one, "search", lambda ranking: ranking.postings >= HEAVY_POSTINGS)
            for one in shards
        ]
        self._texts: MessageBatcher[_Request, Any] | None = None
        if encoder is not None:
            # Texts that are looked up run no network: their stage takes no time.
            self._texts = self._batcher(
                encoder, "encode", lambda encodings: encodings[0].timings.get("encode", 0) > 0
            )

    async def search(self, query: Query, deadline: Deadline) -> Answer:
        """Answer a query; without ``allow_partial`` every shard must answer."""
        async with deadline.enforced():
            encoding = self._modified(await self._encoding(query, deadline))
            detailed = query.depth * len(self._shards) <= DETAILED_HITS
            message = _shard_query(query, encoding, detailed=detailed)
            request = _request(deadline, message)
            self._check_room(self._searches)
            submitted = [batcher.submit(request) for batcher in self._searches]
            responses = await asyncio.gather(*submitted, return_exceptions=True)
            rankings = self._present(responses, allow_partial=query.allow_partial)
            return await self._merge(query, encoding, rankings, deadline)

    def check_room(self, queries: int) -> None:
        """Raise OverloadedError unless every shard's queue can take so many queries."""
        for batcher in self._searches:
            batcher.check_room(queries)

    async def encode(
        self, texts: Sequence[str], kind: TextKind, deadline: Deadline, attribution: bool
    ) -> list[Encoding]:
        """Encode texts."""
        self.info.require_encoder()
        assert self._encoder is not None
        async with deadline.enforced():
            # Not in a shared message: texts that take seconds would delay the queries behind them.
            (encodings,) = await self._send(
                self._encoder, "encode", [_request(deadline, list(texts), kind, attribution)]
            )
        if isinstance(encodings, Exception):
            raise encodings
        result: list[Encoding] = encodings
        return result

    async def explain(
        self, query: Query, ids: Sequence[str], deadline: Deadline
    ) -> tuple[Answer, tuple[Explanation, ...]]:
        """Rank, and let every shard score those of the documents that it holds."""
        async with deadline.enforced():
            encoding = await self._encoding(query, deadline)
            ranked = replace(
                query,
                text=None,
                vector=(encoding.terms, encoding.weights),  # type: ignore[arg-type]
                with_document=False,
            )
            answer = await self.search(ranked, deadline)
            asked = self._modified(encoding)
            call = _call(self.version, _request(deadline))
            message = _shard_query(query, asked, detailed=True)
            found: list[dict[str, Hit]] = await asyncio.gather(
                *(shard.call("explain", call, message, list(ids)) for shard in self._shards)
            )
            hits = {
                id: replace(hit, contributions=self._named(hit.contributions))
                for some in found
                for id, hit in some.items()
            }
            timings = {**answer.timings, **encoding.timings}
            cut = replace(answer.cut, tokens=encoding.cut.tokens)
            answer = replace(answer, timings=timings, cut=cut)
            return answer, Explanation.place(ids, hits, answer)

    async def verify(self, query: Query, deadline: Deadline) -> Verification:
        """Compare with the reference of every shard; the time is that of the slowest."""
        async with deadline.enforced():
            encoding = self._modified(await self._encoding(query, deadline))
            call = _call(self.version, _request(deadline))
            message = _shard_query(query, encoding, detailed=False)
            responses = await asyncio.gather(
                *(shard.call("verify", call, message) for shard in self._shards)
            )
            found, reference = [
                await self._merge(
                    query, encoding, {i: one[side] for i, one in enumerate(responses)}, deadline
                )
                for side in (0, 1)
            ]
            return Verification.compare(found, reference, max(one[2] for one in responses))

    async def get(
        self, ids: Sequence[str], deadline: Deadline, vectors: bool
    ) -> tuple[list[StoredDocument | None], int]:
        """Return the document of each id, and the generation."""
        found = await self._read("get", deadline, list(ids), vectors)
        documents = [
            next((one for one in places if one is not None), None)
            for places in zip(*found, strict=True)
        ]
        return documents, self.info.index.generation

    async def scroll(
        self, after: int, limit: int, deadline: Deadline, filter: Filter | None, vectors: bool
    ) -> Page:
        """Return a page of documents: the first ones of the pages of all shards."""
        pages: list[Page] = await self._read("scroll", deadline, after, limit, filter, vectors)
        merged = sorted(
            (document for page in pages for document in page.documents),
            key=lambda document: document.arrival or 0,
        )
        return Page(tuple(merged[:limit]), self.info.index.generation)

    async def count(self, deadline: Deadline, filter: Filter | None) -> tuple[int, int]:
        """Return the number of documents, and the generation."""
        return sum(await self._read("count", deadline, filter)), self.info.index.generation

    async def _read(self, method: str, deadline: Deadline, *arguments: Any) -> list[Any]:
        """Return what each shard answers to a question about its documents."""
        async with deadline.enforced():
            call = _call(self.version, _request(deadline))
            return await asyncio.gather(
                *(shard.call(method, call, *arguments) for shard in self._shards)
            )

    def _batcher(
        self, deployment: DeploymentClient, method: str, is_heavy: Callable[[Any], bool]
    ) -> MessageBatcher[_Request, Any]:
        """Return the way to a deployment; ``is_heavy`` tells of a response whether it took long.

        Work is counted, not timed: on a busy machine everything takes long, and just then messages
        must be shared.
        """

        async def send(requests: Sequence[_Request]) -> list[Any]:
            self._report_depth()
            responses = await self._send(deployment, method, requests)
            heavy = any(is_heavy(one) for one in responses if not isinstance(one, Exception))
            batcher.messages = HEAVY_MESSAGES if heavy else 1
            return responses

        batcher: MessageBatcher[_Request, Any] = MessageBatcher(send, self._queue)
        return batcher

    async def _send(
        self, deployment: DeploymentClient, method: str, requests: Sequence[_Request]
    ) -> list[Any]:
        """Return the response to each request, or its error."""
        message = [(_call(self.version, one), *one.arguments) for one in requests]
        responses: list[Any] = await deployment.call(method, message)
        return responses

    def _check_room(self, batchers: Sequence[MessageBatcher[_Request, Any]]) -> None:
        """Raise OverloadedError if one of the queues is full: all shards are asked, or none."""
        self._report_depth()
        for batcher in batchers:
            batcher.check_room()

    def _report_depth(self) -> None:
        batchers = [*self._searches, *([] if self._texts is None else [self._texts])]
        self._metrics.queued(max(batcher.queued for batcher in batchers))

    async def _encoding(self, query: Query, deadline: Deadline) -> Encoding:
        """Return the vector of the query, encoded if it is a text."""
        if query.vector is not None:
            return Encoding(*query.vector)  # type: ignore[arg-type]
        self.info.require_encoder()
        assert query.text is not None
        if self._look_up is not None and len(query.text) <= INLINE_TEXT:
            self._check_room(self._searches)
            return self._look_up.encode(query.text)
        assert self._texts is not None
        self._check_room([self._texts, *self._searches])
        request = _request(deadline, [query.text], "query", False)
        encodings, queued = await self._texts.submit(request)
        encoding: Encoding = encodings[0]
        timings = self._with_queue(encoding.timings, queued)
        return replace(encoding, timings=timings)

    def _modified(self, encoding: Encoding) -> Encoding:
        """Apply the query modifier, which a part of an index cannot know."""
        if self.info.statistics is None or len(self._shards) == 1:
            return encoding
        queries = SparseBatch.join([(encoding.terms, encoding.weights)])  # type: ignore[list-item]
        return replace(encoding, weights=self.info.modify(queries).weights)  # type: ignore[arg-type]

    def _with_queue(self, timings: Mapping[str, int], queued: int) -> dict[str, int]:
        """Add the wait for a message to the wait in the replica's own queue."""
        self._metrics.stages({"queue": queued})
        return {**timings, "queue": timings.get("queue", 0) + queued}

    def _present(
        self, responses: Sequence[tuple[ShardRanking, int] | BaseException], *, allow_partial: bool
    ) -> dict[int, ShardRanking]:
        """Return the shards that answered; raise the first error that may not be ignored."""
        rankings = {}
        for shard, response in enumerate(responses):
            if not isinstance(response, BaseException):
                ranking, queued = response
                timings = self._with_queue(ranking.timings, queued)
                rankings[shard] = ranking._replace(timings=timings)
            elif not (allow_partial and type(response) in (UnavailableError, InternalError)):
                raise response
        if not rankings:
            raise UnavailableError("shards: none answers; retry soon")
        return rankings

    async def _merge(
        self,
        query: Query,
        encoding: Encoding,
        rankings: Mapping[int, ShardRanking],
        deadline: Deadline,
    ) -> Answer:
        """Merge the rankings of the shards into one answer, with everything the query asks for."""
        started = time.perf_counter_ns()
        best = _best(rankings, query)
        merging = time.perf_counter_ns() - started
        self._metrics.stages({"merge": merging})
        started = time.perf_counter_ns()
        details = await self._details(query, encoding, rankings, best, deadline)
        fetching = time.perf_counter_ns() - started
        shards = best.shards.tolist()
        places = list(zip(shards, best.rows.tolist(), strict=True))
        hits = Hits(
            [rankings[i].ids[row] for i, row in places],
            best.scores.tolist(),
            shards,
            next(iter(rankings.values())).score_scale,
            best.ordinals.tolist(),
            [one.document for one in details],
            [self._named(one.contributions) for one in details],
            [one.vector for one in details],
            [int(rankings[i].versions[row]) for i, row in places],
        )
        slowest = max(
            (one.timings for one in rankings.values()), key=lambda timings: sum(timings.values())
        )
        timings = dict(encoding.timings)
        for stage, spent in (*slowest.items(), ("merge", merging), ("fetch", fetching)):
            timings[stage] = timings.get(stage, 0) + spent
        cut = encoding.cut
        return Answer(
            hits=hits,
            matched=sum(one.matched for one in rankings.values()),
            postings=sum(one.postings for one in rankings.values()),
            query_terms=len(encoding.terms),
            cut=Cut(
                cut.tokens,
                cut.terms + query.unknown_terms,
                max(one.clipped for one in rankings.values()),
            ),
            timings=timings,
            generation=self.info.index.generation,
            model_fingerprint=self.info.model_fingerprint,
            missing_shards=tuple(i for i in range(len(self._shards)) if i not in rankings),
        )

    async def _details(
        self,
        query: Query,
        encoding: Encoding,
        rankings: Mapping[int, ShardRanking],
        best: _Best,
        deadline: Deadline,
    ) -> list[Detail]:
        """Return the details of each hit: from the rankings, else asked of the shards with hits.

        Empty if the query asks for none.
        """
        if not (query.explain or query.with_document or query.with_vector):
            return []
        present = {i: one.details for i, one in rankings.items() if one.details is not None}
        if present:
            pairs = zip(best.shards.tolist(), best.rows.tolist(), strict=True)
            return [present[shard][row] for shard, row in pairs]
        wanted = np.unique(best.shards).tolist()
        call = _call(self.version, _request(deadline))
        message = _shard_query(query, encoding, detailed=True)
        found = await asyncio.gather(
            *(
                self._shards[shard].call(
                    "details",
                    call,
                    message,
                    best.ordinals[best.shards == shard],
                    best.scores[best.shards == shard],
                )
                for shard in wanted
            )
        )
        # Those of each shard come in the order of its hits.
        following = {shard: iter(some) for shard, some in zip(wanted, found, strict=True)}
        return [next(following[shard]) for shard in best.shards.tolist()]

    def _named(self, contributions: Sequence[Contribution]) -> tuple[Contribution, ...]:
        """Add the token strings, which shards do not know."""
        token = self.info.token
        return tuple(replace(one, token=token(one.term)) for one in contributions)


class _Best(NamedTuple):
    """The best hits of all shards, best first; ``rows`` are places in the shards' rankings."""

    shards: NDArray[np.int32]
    ordinals: NDArray[np.int64]
    scores: NDArray[np.int32]
    rows: NDArray[np.int64]


def _best(rankings: Mapping[int, ShardRanking], query: Query) -> _Best:
    """Return the hits that are asked for in the order of one process: score, ordinal, shard."""
    ordinals = np.concatenate([one.ordinals for one in rankings.values()])
    scores = np.concatenate([one.scores for one in rankings.values()])
    shards = np.repeat(
        np.array(list(rankings), np.int32), [len(one.scores) for one in rankings.values()]
    )
    rows = np.concatenate([np.arange(len(one.scores)) for one in rankings.values()])
    order = np.lexsort((shards, ordinals, -scores.astype(np.int64)))[query.offset : query.depth]
    if query.score_threshold is not None:
        scale = next(iter(rankings.values())).score_scale
        order = order[scores[order] * scale >= query.score_threshold]
    return _Best(shards[order], ordinals[order], scores[order], rows[order])


def _shard_query(query: Query, encoding: Encoding, *, detailed: bool) -> ShardQuery:
    """Return what a shard is asked; ``detailed`` includes what the query asks of every hit."""
    return ShardQuery(
        encoding.terms,  # type: ignore[arg-type]
        encoding.weights,  # type: ignore[arg-type]
        query.depth,
        query.filter,
        query.explain and detailed,
        query.with_document and detailed,
        query.with_vector and detailed,
    )


def _request(deadline: Deadline, *arguments: Any) -> _Request:
    return _Request(deadline, logs.request_id.get(), arguments)


def _call(version: str, request: _Request) -> Call:
    return Call(version, request.request_id, request.deadline.remaining)
