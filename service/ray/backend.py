"""The pipeline of the ingress: encode in one deployment, search all shards at once, merge.

It stands where a single process has its :class:`~csplade.engine.local.Pipeline`, for the same
servicer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RequestCancelledError,
)

from ...core.errors import IncompatibleError, OverloadedError, UnavailableError
from ...engine.collection import Answer, Hit
from ...engine.local import FEW, Done, Work, until
from ...index import IndexManifest
from ..settings import Settings
from ..telemetry import logs
from ..telemetry.metrics import Metrics
from .message_batcher import Lane
from .replicas import Call, Coded, Detail, EncoderFacts, FailedError, Ranking, Refusal, vector_of

T = TypeVar("T")

LOST = (RayActorError, DeploymentUnavailableError, RequestCancelledError)
HEAVY = 5_000_000  # postings of one search: of milliseconds of work, what a message costs is a small part
APART = 16  # messages to a deployment at once when its work is heavier, so that all of its replicas have some
TOGETHER = 200  # hits of all shards: so few bring their documents, some in vain, because a message costs more
SIGN_OF_LIFE = (
    2.0  # seconds that a deployment may take to say that it lives; twice, then it counts as down
)


class Peer:
    """A deployment behind the ingress.

    Attributes:
        name: for errors.
        up: whether it answered lately; while it does not, calls are refused at once.
    """

    def __init__(self, name: str, handle: Any) -> None:
        self.name = name
        self.up = True
        self._misses = 0
        self._handle = handle.options(
            _by_reference=False, request_serialization="pickle", response_serialization="pickle"
        )
        self._waiting: set[Any] = set()

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of any replica, and once more of another when the first one dies.

        Raises:
            UnavailableError: no replica answers.
            OverloadedError: replicas have more to do than Ray lets them.
            What the replica refuses with: see :class:`Refusal`.
        """
        for attempt in (1, 2):
            if not self.up:
                break
            try:
                result = await self._once(method, arguments)
            except LOST:
                if attempt == 1:
                    continue
                break
            except BackPressureError as error:
                raise OverloadedError(f"{self.name}: {error}", 1.0) from None
            if isinstance(result, Refusal):
                raise result.error()
            return result
        raise UnavailableError(f"{self.name} does not answer, try again soon")

    async def _once(self, method: str, arguments: Sequence[Any]) -> Any:
        response = getattr(self._handle, method).remote(*arguments)
        self._waiting.add(response)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()  # whoever asked is gone, or out of time: the replica need not go on
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise RequestCancelledError from None
            raise
        finally:
            self._waiting.discard(response)

    async def look(self) -> tuple[str, ...]:
        """Ask for a sign of life; returns the versions that the replica holds, none if there is no
        answer.
        """
        try:
            async with asyncio.timeout(SIGN_OF_LIFE):
                versions = await self._once("versions", ())
        except (*LOST, BackPressureError, TimeoutError):
            self._misses += 1
            if self._misses == 2:
                self.up = False
                for response in tuple(self._waiting):
                    response.cancel()
            return ()
        self._misses, self.up = 0, True
        return versions


@dataclass(frozen=True)
class RemoteEncoder:
    """What the servicer asks of an encoder, of one that runs elsewhere."""

    facts: EncoderFacts

    @property
    def name(self) -> str:
        """Name or path it was loaded by."""
        return self.facts.name

    @property
    def fingerprint(self) -> str:
        """Of its manifest."""
        return self.facts.fingerprint

    @property
    def vocabulary_size(self) -> int:
        """Terms of its vocabulary."""
        return self.facts.vocabulary_size

    @property
    def manifest(self) -> Any:
        """Has ``to_dict``, as the encoder's own manifest."""
        return SimpleNamespace(to_dict=lambda *, golden: self.facts.rules)

    def token(self, term: int) -> str:
        """A term in letters."""
        return self.facts.tokens[term]


class Catalog:
    """What the servicer asks of an engine, of one whose parts run elsewhere.

    Args:
        shards: manifest of each shard's replicas.
        encoder: None when vectors only can be searched.
    """

    def __init__(self, shards: Sequence[IndexManifest], encoder: EncoderFacts | None) -> None:
        parts = tuple(part for manifest in shards for part in manifest.shards)
        self.index = SimpleNamespace(manifest=replace(shards[0], shards=parts))
        self.encoder = None if encoder is None else RemoteEncoder(encoder)

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the encoder the index was built with; "" for ready vectors."""
        return self.index.manifest.fingerprint or ""

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
        return "" if self.encoder is None else self.encoder.token(term)

    def need_encoder(self) -> RemoteEncoder:
        """The encoder. Raises IncompatibleError when there is none."""
        if self.encoder is None:
            raise IncompatibleError(
                "text cannot be encoded: no encoder is loaded; search with vectors, or start with "
                "a model"
            )
        return self.encoder


class _Question(NamedTuple):
    """What one request asks of a deployment."""

    deadline: float
    request_id: str
    arguments: tuple[Any, ...]


class Fanout:
    """Answers requests by one version of the encoder and of every shard.

    Args:
        version: the one.
        engine: what is known of it.
        encoder: None when vectors only can be searched.
        shards: in order of number.
        settings: the whole tree.
        metrics: where the ingress's own stages are recorded.
    """

    def __init__(
        self,
        version: str,
        engine: Catalog,
        encoder: Peer | None,
        shards: Sequence[Peer],
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.version, self.engine = version, engine
        self._encoder, self._shards = encoder, shards
        self._limit, self._metrics = settings.limits.timeout_seconds, metrics
        self._queue = settings.batching.queue
        self._searches = [
            self._lane(one, "search", lambda found: found.postings >= HEAVY) for one in shards
        ]
        if encoder is not None:
            # Where queries are looked up, no network runs and the stage takes no time.
            self._texts = self._lane(
                encoder, "encode", lambda coded: coded[0].timings.get("encode", 0) > 0
            )
        self._lanes = self._searches if encoder is None else [*self._searches, self._texts]

    async def search(
        self, work: Work, *, remaining: float | None, then: Callable[[Answer], T]
    ) -> T:
        """As :meth:`Pipeline.search`; and UnavailableError when a shard is, unless the work allows
        that.
        """
        async with until(remaining, self._limit) as deadline:
            coded = await self._vector(work, deadline)
            together = work.k * len(self._shards) <= TOGETHER
            wanted = (work.k, work.explain and together, work.fetch and together)
            question = _question(deadline, coded.terms, coded.weights, *wanted)
            self._need_room(self._searches)
            asked = [lane.ask(question) for lane in self._searches]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            rankings = self._present(answers, allow_partial=work.allow_partial)
            answer = await self._merged(work, coded, rankings, deadline)
            if len(answer.hits) <= FEW:
                return then(answer)
            return await asyncio.to_thread(then, answer)

    async def encode(
        self, works: Sequence[Work], *, remaining: float | None, then: Callable[[Sequence[Done]], T]
    ) -> T:
        """As :meth:`Pipeline.encode`."""
        async with until(remaining, self._limit) as deadline:
            self.engine.need_encoder()
            assert self._encoder is not None
            texts = [work.text or "" for work in works]
            # Not by the lane: what takes seconds would hold up the queries behind it.
            (coded,) = await self._ask(
                self._encoder, "encode", [_question(deadline, texts, works[0].kind)]
            )
            if isinstance(coded, Exception):
                raise coded
            done = [
                Done(
                    vector=vector_of(one.terms, one.weights),
                    tokens=one.tokens,
                    dropped_tokens=one.dropped_tokens,
                    dropped_terms=one.dropped_terms,
                    timings=one.timings,
                )
                for one in coded
            ]
            return await asyncio.to_thread(then, done)

    async def verify(self, work: Work, *, remaining: float | None) -> tuple[Answer, Answer, int]:
        """As :meth:`Pipeline.verify`, of every shard; the nanoseconds are those of the slowest."""
        async with until(remaining, self._limit) as deadline:
            coded = await self._vector(work, deadline)
            answers = await asyncio.gather(
                *(
                    shard.call("verify", self._call(deadline), coded.terms, coded.weights, work.k)
                    for shard in self._shards
                )
            )
            found = await self._merged(
                work, coded, {i: one[0] for i, one in enumerate(answers)}, deadline
            )
            truth = await self._merged(
                work, coded, {i: one[1] for i, one in enumerate(answers)}, deadline
            )
            return found, truth, max(one[2] for one in answers)

    def _lane(self, peer: Peer, method: str, heavy: Callable[[Any], bool]) -> Lane[_Question, Any]:
        """The way to a deployment; ``heavy`` tells of an answer whether it took much work.

        Work is counted, not timed: on a busy machine everything takes long, and that is when
        messages must be shared.
        """

        async def send(questions: Sequence[_Question]) -> list[Any]:
            self._tell_depth()
            answers = await self._ask(peer, method, questions)
            apart = any(heavy(one) for one in answers if not isinstance(one, Exception))
            lane.messages = APART if apart else 1
            return answers

        lane: Lane[_Question, Any] = Lane(send, self._queue)
        return lane

    def _need_room(self, lanes: Sequence[Lane[_Question, Any]]) -> None:
        """All or none are asked: raises OverloadedError when one of the queues is full."""
        self._tell_depth()
        for lane in lanes:
            lane.need_room()

    def _tell_depth(self) -> None:
        self._metrics.queue_depth.set(max(lane.waiting for lane in self._lanes))

    def _queued(self, timings: dict[str, int], waited: int) -> None:
        """Add the wait for a message to that in the replica's own queue."""
        timings["queue"] = timings.get("queue", 0) + waited
        self._metrics.stages({"queue": waited})

    async def _ask(self, peer: Peer, method: str, questions: Sequence[_Question]) -> list[Any]:
        """The answer to each, or the error that it was refused with."""
        asked = [(self._call(one.deadline, one.request_id), *one.arguments) for one in questions]
        answers = await peer.call(method, asked)
        return [one.error() if isinstance(one, Refusal) else one for one in answers]

    def _call(self, deadline: float, request_id: str | None = None) -> Call:
        remaining = max(0.0, deadline - time.monotonic())
        return Call(
            self.version, logs.request_id.get() if request_id is None else request_id, remaining
        )

    async def _vector(self, work: Work, deadline: float) -> Coded:
        if work.vector is None:
            self.engine.need_encoder()
            self._need_room([self._texts, *self._searches])
            (coded,), waited = await self._texts.ask(
                _question(deadline, [work.text or ""], work.kind)
            )
            self._queued(coded.timings, waited)
            return coded
        return Coded(work.vector[0].tobytes(), work.vector[1].tobytes(), 0, 0, 0, {})

    def _present(
        self, answers: Sequence[tuple[Ranking, int] | BaseException], *, allow_partial: bool
    ) -> dict[int, Ranking]:
        """The shards that answered; raises the first error that may not be passed over."""
        rankings = {}
        for shard, answer in enumerate(answers):
            if not isinstance(answer, BaseException):
                rankings[shard], waited = answer
                self._queued(rankings[shard].timings, waited)
            elif not (allow_partial and type(answer) in (UnavailableError, FailedError)):
                raise answer
        if not rankings:
            raise UnavailableError("no shard answers, try again soon")
        return rankings

    async def _merged(
        self, work: Work, coded: Coded, rankings: dict[int, Ranking], deadline: float
    ) -> Answer:
        """One ranking out of those of the shards, with all that the work asks for."""
        started = time.perf_counter_ns()
        shards, ordinals, scores, rows = _merge(rankings, work.k)
        merging = time.perf_counter_ns() - started
        self._metrics.stages({"merge": merging})
        looked = time.perf_counter_ns()
        details = await self._details(
            work, coded, rankings, shards, ordinals, scores, rows, deadline
        )
        looking = time.perf_counter_ns() - looked
        scale = self.engine.score_scale
        hits = [
            Hit(
                rankings[shard].ids[row],
                score * scale,
                score,
                shard,
                ordinal,
                document,
                self._named(reasons),
            )
            for shard, ordinal, score, row, (document, reasons) in zip(
                shards.tolist(),
                ordinals.tolist(),
                scores.tolist(),
                rows.tolist(),
                details,
                strict=True,
            )
        ]
        slowest = max(
            (one.timings for one in rankings.values()), key=lambda timings: sum(timings.values())
        )
        timings = dict(coded.timings)
        for stage, nanoseconds in (*slowest.items(), ("merge", merging), ("fetch", looking)):
            timings[stage] = timings.get(stage, 0) + nanoseconds
        return Answer(
            hits=hits,
            matched=sum(one.matched for one in rankings.values()),
            postings=sum(one.postings for one in rankings.values()),
            query_terms=len(coded.terms) // 4,
            dropped_tokens=coded.dropped_tokens,
            dropped_terms=coded.dropped_terms,
            clipped=max(one.clipped for one in rankings.values()),
            timings=timings,
            missing_shards=tuple(i for i in range(len(self._shards)) if i not in rankings),
        )

    async def _details(
        self,
        work: Work,
        coded: Coded,
        rankings: dict[int, Ranking],
        shards: NDArray[np.int32],
        ordinals: NDArray[np.int64],
        scores: NDArray[np.int32],
        rows: NDArray[np.int64],
        deadline: float,
    ) -> list[Detail]:
        """Document and contributions of each hit: out of the rankings, or asked of the shards that
        have hits.
        """
        if not (work.explain or work.fetch):
            return [(None, None)] * len(rows)
        came = {shard: one.details for shard, one in rankings.items() if one.details is not None}
        if came:
            return [
                came[shard][row] for shard, row in zip(shards.tolist(), rows.tolist(), strict=True)
            ]
        wanted = np.unique(shards).tolist()
        found = await asyncio.gather(
            *(
                self._shards[shard].call(
                    "details", self._call(deadline), coded.terms, coded.weights,
                    ordinals[shards == shard].tobytes(), scores[shards == shard].tobytes(),
                    work.explain, work.fetch,
                )
                for shard in wanted
            )
        )  # fmt: skip
        # Of each shard they come in the order of the hits.
        coming = {shard: iter(some) for shard, some in zip(wanted, found, strict=True)}
        return [next(coming[shard]) for shard in shards.tolist()]

    def _named(self, reasons: Sequence[Any] | None) -> tuple[Any, ...] | None:
        """Contributions with their terms in letters, which shards cannot read."""
        if reasons is None:
            return None
        return tuple(replace(one, token=self.engine.token(one.term)) for one in reasons)


def _question(deadline: float, *arguments: Any) -> _Question:
    return _Question(deadline, logs.request_id.get(), arguments)


def _merge(
    rankings: dict[int, Ranking], k: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Shards, ordinals, scores and rows (in their shard's ranking) of the best ``k``, best first.

    The order is that of one process: score descending, then ordinal, then shard.
    """
    scores = [np.frombuffer(one.scores, np.int32) for one in rankings.values()]
    ordinals = np.concatenate([np.frombuffer(one.ordinals, np.int64) for one in rankings.values()])
    shards = np.repeat(np.array(list(rankings), np.int32), [len(some) for some in scores])
    rows = np.concatenate([np.arange(len(some)) for some in scores])
    together = np.concatenate(scores)
    best = np.lexsort((shards, ordinals, -together.astype(np.int64)))[:k]
    return shards[best], ordinals[best], together[best], rows[best]
