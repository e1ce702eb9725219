"""What runs in the replicas behind the ingress: an encoder, or one shard of the index.

Each holds the version it was told of last and, while anybody still asks for it, the one before. So
an update goes through without a moment in which some replicas cannot answer: a request names the
version it wants, and is answered by that version in every replica or not at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ...core.document import Document
from ...core.errors import (
    CspladeError,
    DeadlineError,
    IncompatibleError,
    InputError,
    OverloadedError,
    UnavailableError,
)
from ...core.vectors import SparseBatch
from ...engine.collection import Answer, Collection, Contribution
from ...engine.local import Done, Kind, Pipeline, Vector, Work
from ...index import IndexManifest, SearchResult
from ..grpc.server import open_engine
from ..settings import Settings
from ..telemetry import logs
from ..telemetry.metrics import Metrics
from .metrics import RayInstruments

log = logging.getLogger(__name__)

RETIRE_AFTER = 60.0  # seconds without a request for it, then the version before is let go
LAST_REQUESTS = (
    5.0  # seconds that requests in flight have, when a version is let go for two newer ones
)


class Target(BaseModel):
    """What a replica serves: the ``user_config`` of every deployment that loads something.

    Attributes:
        version: any name; requests are answered by replicas of the same version only.
        index: directory of the index, None for that of the settings.
        model: directory or name of the encoder, None for that of the settings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    version: str = "1"
    index: Path | None = None
    model: str | None = None

    def settings(self, settings: Settings, *, with_encoder: bool) -> Settings:
        """The settings with what is to be served in them."""
        model = {
            "path": self.model or settings.model.path,
            "enabled": with_encoder and settings.model.enabled,
        }
        return settings.model_copy(
            update={
                "index": self.index or settings.index,
                "model": settings.model.model_copy(update=model),
            }
        )


class Call(NamedTuple):
    """What goes with every call from the ingress: wanted version, request id, seconds left."""

    version: str
    request_id: str
    remaining: float | None


class MovedError(UnavailableError):
    """A replica does not hold the wanted version; ``versions`` are those it holds, newest first."""

    def __init__(self, message: str, versions: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.versions = tuple(versions)


class FailedError(Exception):
    """Something unexpected went wrong in a replica, whose log tells what."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error on its way from a replica to the ingress.

    Errors are values here: a raised one Ray would log with its traceback, and lose its attributes.
    """

    kind: str
    message: str
    retry_after: float = 0.0
    versions: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: Exception) -> Refusal:
        """From what a replica raised."""
        if not isinstance(error, CspladeError):
            return cls(FailedError.__name__, f"{type(error).__name__} in a replica")
        kind = next(name for name, known in _ERRORS.items() if isinstance(error, known))
        retry_after, versions = getattr(error, "retry_after", 0.0), getattr(error, "versions", ())
        return cls(kind, str(error), retry_after, versions)

    def error(self) -> Exception:
        """The same error, to be raised in the ingress."""
        if self.kind == OverloadedError.__name__:
            return OverloadedError(self.message, self.retry_after)
        if self.kind == MovedError.__name__:
            return MovedError(self.message, self.versions)
        return _ERRORS[self.kind](self.message)


_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        InputError, IncompatibleError, OverloadedError, DeadlineError, MovedError, UnavailableError,
        CspladeError, FailedError,
    )
}  # fmt: skip


Detail = tuple[Document | None, tuple[Contribution, ...] | None]
"""Document and contributions of a hit, None where they were not asked for."""


class Ranking(NamedTuple):
    """Hits of one query in one shard, best first: ids, then ordinals int64 [n] and scores int32 [n]
    as bytes.

    ``details`` has one of each hit, or is None when they were not asked for together with the
    ranking.
    """

    ids: list[str]
    ordinals: bytes
    scores: bytes
    matched: int
    postings: int
    clipped: int
    timings: dict[str, int]
    details: list[Detail] | None

    @classmethod
    def of(cls, answer: Answer, *, detailed: bool = False) -> Ranking:
        """From the answer of a shard's engine."""
        return cls(
            [hit.id for hit in answer.hits],
            np.fromiter((hit.ordinal for hit in answer.hits), np.int64, len(answer.hits)).tobytes(),
            np.fromiter(
                (hit.score_int for hit in answer.hits), np.int32, len(answer.hits)
            ).tobytes(),
            answer.matched,
            answer.postings,
            answer.clipped,
            answer.timings,
            [(hit.document, hit.contributions) for hit in answer.hits] if detailed else None,
        )


class Coded(NamedTuple):
    """The vector of one text: terms int32 [n] and weights float32 [n] as bytes, and what was cut."""

    terms: bytes
    weights: bytes
    tokens: int
    dropped_tokens: int
    dropped_terms: int
    timings: dict[str, int]


class EncoderFacts(NamedTuple):
    """What the ingress tells of an encoder: its identity, its rules, and its terms in letters."""

    name: str
    fingerprint: str
    vocabulary_size: int
    rules: dict[str, Any]
    tokens: list[str]


def vector_of(terms: bytes, weights: bytes) -> Vector:
    """A vector out of its bytes; the arrays are read-only."""
    return np.frombuffer(terms, np.int32), np.frombuffer(weights, np.float32)


@dataclass(eq=False, slots=True)
class _Loaded:
    version: str
    pipeline: Pipeline
    asked: float = field(default_factory=time.monotonic)
    closed: bool = False

    def close(self) -> None:
        self.pipeline.close()
        self.pipeline.engine.close()


class Versions:
    """The versions that a replica holds.

    Args:
        load: makes the pipeline of a target; runs in a thread.
        retire_after: seconds without a request, then the version before the newest is let go.
    """

    def __init__(
        self, load: Callable[[Target], Pipeline], retire_after: float = RETIRE_AFTER
    ) -> None:
        self._load, self._retire_after = load, retire_after
        self._held: list[_Loaded] = []  # newest first
        self._wanted: Target
        self._following: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """Of what is held, newest first."""
        return tuple(one.version for one in self._held)

    async def update(self, target: Target) -> None:
        """Serve another target: at once when it is the first, else as soon as it is loaded."""
        self._wanted = target
        if not self._held:
            self._held = [_Loaded(target.version, await asyncio.to_thread(self._load, target))]
        elif self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        """Load what is wanted beside what is held, until nothing newer is wanted."""
        while (target := self._wanted).version != self._held[0].version:
            try:
                pipeline = await asyncio.to_thread(self._load, target)
            except Exception:
                log.exception(
                    "version %s cannot be loaded, %s stays", target.version, self._held[0].version
                )
                if self._wanted is target:
                    return
                continue
            log.info("loaded", extra={"version": target.version, "before": self._held[0].version})
            newest, *rest = self._held
            self._held = [_Loaded(target.version, pipeline), newest]
            for old, after in (
                *((one, LAST_REQUESTS) for one in rest),
                (newest, self._retire_after),
            ):
                task = asyncio.create_task(self._retire(old, after))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)

    async def _retire(self, old: _Loaded, after: float) -> None:
        """Let go of a version that nobody has asked for in so many seconds."""
        while (idle := time.monotonic() - old.asked) < after:
            await asyncio.sleep(after - idle)
        if old in self._held:
            self._held.remove(old)
        if not old.closed:
            old.closed = True
            await asyncio.to_thread(old.close)

    def pipeline(self, version: str) -> Pipeline:
        """The pipeline of a version. Raises MovedError when it is not held."""
        for one in self._held:
            if one.version == version:
                one.asked = time.monotonic()
                return one.pipeline
        raise MovedError(
            f"version {version} is not served here, but {', '.join(self.names)}", self.names
        )

    @property
    def newest(self) -> Pipeline:
        """The newest pipeline."""
        return self._held[0].pipeline


class _Replica:
    """What the encoder's and a shard's replicas have in common."""

    def __init__(self, settings: Settings) -> None:
        logs.configure(settings.logging.level)
        self._settings = settings
        self._metrics = Metrics(RayInstruments())
        self._versions = Versions(self._load)

    def _load(self, target: Target) -> Pipeline:
        raise NotImplementedError

    async def reconfigure(self, target: dict[str, Any]) -> None:
        """Ray tells what to serve: before the first request, and whenever the configuration
        changes.
        """
        await self._versions.update(Target.model_validate(target))

    async def versions(self) -> tuple[str, ...]:
        """The versions held here, newest first. Also the sign of life that the ingress asks for."""
        return self._versions.names

    async def _answer(self, call: Call, work: Callable[[Pipeline], Awaitable[Any]]) -> Any:
        logs.request_id.set(call.request_id)
        try:
            return await work(self._versions.pipeline(call.version))
        except Exception as error:
            if not isinstance(error, CspladeError):
                log.exception("a replica's part of a request failed")
            return Refusal.of(error)


class EncoderReplica(_Replica):
    """Texts to vectors."""

    def _load(self, target: Target) -> Pipeline:
        engine = open_engine(target.settings(self._settings, with_encoder=True), shards=())
        encoder = engine.need_encoder()
        encoder.encode(["ready"], "query")
        self._metrics.model_info.info(
            {"name": encoder.name, "fingerprint": encoder.fingerprint, "device": encoder.device}
        )
        return Pipeline(engine, self._settings, self._metrics)

    async def facts(self, call: Call) -> EncoderFacts | Refusal:
        """What the encoder is."""

        async def look(pipeline: Pipeline) -> EncoderFacts:
            encoder = pipeline.engine.need_encoder()
            size = encoder.vocabulary_size
            tokens = await asyncio.to_thread(lambda: [encoder.token(term) for term in range(size)])
            rules = encoder.manifest.to_dict(golden=False)
            return EncoderFacts(encoder.name, encoder.fingerprint, size, rules, tokens)

        return await self._answer(call, look)

    async def encode(
        self, asked: list[tuple[Call, list[str], Kind]]
    ) -> list[list[Coded] | Refusal]:
        """The vectors of some texts each: call, texts, and on which side they stand."""
        return await asyncio.gather(*(self._encode(*one) for one in asked))

    async def _encode(self, call: Call, texts: list[str], kind: Kind) -> list[Coded] | Refusal:
        async def encode(pipeline: Pipeline) -> list[Coded]:
            works = [Work(text=text, kind=kind) for text in texts]
            return await pipeline.encode(works, remaining=call.remaining, then=_coded)

        return await self._answer(call, encode)


class ShardReplica(_Replica):
    """One shard: vectors to ranked documents.

    Args:
        settings: the whole tree.
        shard: its number.
    """

    def __init__(self, settings: Settings, shard: int) -> None:
        super().__init__(settings)
        self._shard = shard

    def _load(self, target: Target) -> Pipeline:
        engine = open_engine(
            target.settings(self._settings, with_encoder=False), shards=(self._shard,)
        )
        engine.search(SparseBatch.from_rows([([0], [1.0])]), 1)  # what is compiled, is compiled now
        self._metrics.index(engine.index.manifest)
        return Pipeline(engine, self._settings, self._metrics)

    async def facts(self, call: Call) -> IndexManifest | Refusal:
        """What the index is, with this shard alone in ``shards``."""

        async def look(pipeline: Pipeline) -> IndexManifest:
            return pipeline.engine.index.manifest

        return await self._answer(call, look)

    async def search(
        self, asked: list[tuple[Call, bytes, bytes, int, bool, bool]]
    ) -> list[Ranking | Refusal]:
        """The best ``k`` of this shard for each vector: call, terms, weights, ``k``, explain,
        fetch.
        """
        return await asyncio.gather(*(self._search(*one) for one in asked))

    async def _search(
        self, call: Call, terms: bytes, weights: bytes, k: int, explain: bool, fetch: bool
    ) -> Ranking | Refusal:
        async def search(pipeline: Pipeline) -> Ranking:
            work = Work(vector=vector_of(terms, weights), k=k, explain=explain, fetch=fetch)
            ranking = partial(Ranking.of, detailed=explain or fetch)
            return await pipeline.search(work, remaining=call.remaining, then=ranking)

        return await self._answer(call, search)

    async def verify(
        self, call: Call, terms: bytes, weights: bytes, k: int
    ) -> tuple[Ranking, Ranking, int] | Refusal:
        """The same, and by the exhaustive reference, and the nanoseconds that took."""

        async def verify(pipeline: Pipeline) -> tuple[Ranking, Ranking, int]:
            work = Work(vector=vector_of(terms, weights), k=k)
            answer, reference, nanoseconds = await pipeline.verify(work, remaining=call.remaining)
            return Ranking.of(answer), Ranking.of(reference), nanoseconds

        return await self._answer(call, verify)

    async def details(
        self,
        call: Call,
        terms: bytes,
        weights: bytes,
        ordinals: bytes,
        scores: bytes,
        explain: bool,
        fetch: bool,
    ) -> list[Detail] | Refusal:
        """Documents and contributions of hits that this shard gave."""

        async def look(pipeline: Pipeline) -> list[Detail]:
            started = time.perf_counter_ns()
            found = await asyncio.to_thread(
                self._details, pipeline.engine, vector_of(terms, weights),
                np.frombuffer(ordinals, np.int64), np.frombuffer(scores, np.int32), explain, fetch,
            )  # fmt: skip
            self._metrics.stages({"fetch": time.perf_counter_ns() - started})
            return found

        return await self._answer(call, look)

    def _details(
        self, engine: Collection, vector: Vector, ordinals: NDArray[np.int64], scores: NDArray[np.int32],
        explain: bool, fetch: bool,
    ) -> list[Detail]:  # fmt: skip
        queries, _ = engine.quantize(_alone(vector))
        count, none = len(ordinals), np.zeros(1, np.int64)
        result = SearchResult(
            np.array([0, count]),
            np.full(count, self._shard, np.int32),
            ordinals,
            scores,
            none,
            none,
            {},
        )
        hits = engine.hits(queries, result, 0, count, explain=explain, fetch=fetch)
        return [(hit.document, hit.contributions) for hit in hits]


def _coded(results: Sequence[Done]) -> list[Coded]:
    return [
        Coded(
            done.vector[0].astype(np.int32, copy=False).tobytes(),
            done.vector[1].astype(np.float32, copy=False).tobytes(),
            done.tokens,
            done.dropped_tokens,
            done.dropped_terms,
            done.timings,
        )
        for done in results
    ]


def _alone(vector: Vector) -> SparseBatch:
    return SparseBatch(np.array([0, len(vector[0])], np.int64), *vector)
