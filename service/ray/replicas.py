"""The replicas behind the ingress: an encoder, or one shard of the index."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve
from ray.serve.exceptions import RayServeException

from ...core.document import TextKind
from ...core.errors import CspladeError, InternalError
from ...core.filters import Filter
from ...core.results import Encoding, Hit, StoredDocument
from ...core.vectors import ImpactBatch, SparseBatch
from ...engine.backend import CollectionInfo, Page, Query
from ...engine.collection import Collection
from ...engine.deadline import Deadline
from ...engine.local import LocalBackend
from ...engine.observer import NullObserver
from ...engine.plan import Plan, SearchTask
from ...index import SearchResult
from .. import compose
from ..settings import Settings
from ..telemetry import logs
from ..telemetry.metrics import Metrics
from . import channel
from .messages import Call, Detail, ShardQuery, ShardRanking
from .metrics import RayInstruments
from .versions import Target, Versions

log = logging.getLogger(__name__)

R = TypeVar("R")


class _Replica(ABC):
    """What the encoder's and a shard's replicas have in common."""

    def __init__(self, settings: Settings) -> None:
        logs.configure(settings.logging.level)
        self._settings = settings
        self._metrics = Metrics(RayInstruments())
        self._versions = Versions(self._load)

    @abstractmethod
    def _load(self, target: Target) -> LocalBackend: ...

    async def reconfigure(self, target: dict[str, Any]) -> None:
        """Serve a target. Ray calls it before the first request and at each new configuration."""
        await self._versions.update(Target.model_validate(target))

    async def versions(self) -> tuple[str, ...]:
        """Return the held versions, newest first; the ingress probes replicas by it."""
        return self._versions.names

    async def info(self, call: Call) -> CollectionInfo | CspladeError:
        """Return what is held: an encoder, or an index with one shard."""

        async def describe(backend: LocalBackend) -> CollectionInfo:
            return await asyncio.to_thread(lambda: backend.info)

        return await self._answer(call, describe)

    async def _answer(
        self, call: Call, work: Callable[[LocalBackend], Awaitable[R]]
    ) -> R | CspladeError:
        """Run a part of a request; return its error as a value."""
        logs.request_id.set(call.request_id)
        try:
            return await work(self._versions.backend(call.version))
        except CspladeError as error:
            return error
        except Exception as error:
            log.exception("a replica's part of a request failed")
            return InternalError(f"{type(error).__name__} in a replica")


class EncoderReplica(_Replica):
    """Texts to vectors."""

    def _load(self, target: Target) -> LocalBackend:
        settings = target.settings(self._settings, with_encoder=True)
        collection = compose.open_collection(settings, shards=())
        collection.require_encoder()
        return compose.ready_backend(collection, settings, self._metrics)

    async def encode(
        self, requests: list[tuple[Call, list[str], TextKind, bool]]
    ) -> list[list[Encoding] | CspladeError]:
        """Encode the texts of each request."""
        return list(await asyncio.gather(*(self._encode(*one) for one in requests)))

    async def _encode(
        self, call: Call, texts: list[str], kind: TextKind, attribution: bool
    ) -> list[Encoding] | CspladeError:
        deadline = Deadline.after(call.remaining)
        return await self._answer(
            call, lambda backend: backend.encode(texts, kind, deadline, attribution=attribution)
        )


class ShardReplica(_Replica):
    """One shard: vectors to ranked documents.

    Args:
        settings: All settings.
        shard: Its number.
    """

    def __init__(self, settings: Settings, shard: int) -> None:
        super().__init__(settings)
        self._shard = shard
        self._listening: asyncio.Server | None = None

    async def reconfigure(self, target: dict[str, Any]) -> None:
        """Serve a target, see :class:`_Replica`; answer the ingresses on this machine directly."""
        await super().reconfigure(target)
        if self._listening is None and (place := _place()) is not None:
            self._listening = await channel.listen(self, *place)

    def _load(self, target: Target) -> LocalBackend:
        settings = target.settings(self._settings, with_encoder=False)
        collection = compose.open_collection(settings, shards=(self._shard,))
        return compose.ready_backend(collection, settings, self._metrics)

    async def search(
        self, requests: list[tuple[Call, ShardQuery]]
    ) -> list[ShardRanking | CspladeError]:
        """Rank this shard's documents for each request."""
        return list(await asyncio.gather(*(self._search(*one) for one in requests)))

    async def _search(self, call: Call, query: ShardQuery) -> ShardRanking | CspladeError:
        async def search(backend: LocalBackend) -> ShardRanking:
            answer = await backend.search(_query(query), Deadline.after(call.remaining))
            detailed = query.explain or query.with_document or query.with_vector
            return ShardRanking.of(answer, detailed=detailed)

        return await self._answer(call, search)

    async def verify(
        self, call: Call, query: ShardQuery
    ) -> tuple[ShardRanking, ShardRanking, int] | CspladeError:
        """Rank by search and by the reference; returns both, and the reference's nanoseconds."""

        async def verify(backend: LocalBackend) -> tuple[ShardRanking, ShardRanking, int]:
            found = await backend.compare(_query(query), Deadline.after(call.remaining))
            answer, reference, nanoseconds = found
            return ShardRanking.of(answer), ShardRanking.of(reference), nanoseconds

        return await self._answer(call, verify)

    async def explain(
        self, call: Call, query: ShardQuery, ids: list[str]
    ) -> dict[str, Hit] | CspladeError:
        """Score those of the documents that this shard holds."""

        def score(collection: Collection) -> dict[str, Hit]:
            task = SearchTask(_query(query), snapshot=collection.index.snapshot)
            task.impacts = _quantized(collection, task)
            plan = Plan(collection, NullObserver())
            return plan.explain(task, ids, with_document=query.with_document)

        async def explain(backend: LocalBackend) -> dict[str, Hit]:
            return await asyncio.to_thread(score, backend.collection)

        return await self._answer(call, explain)

    async def details(
        self,
        call: Call,
        query: ShardQuery,
        ordinals: NDArray[np.int64],
        scores: NDArray[np.int32],
    ) -> list[Detail] | CspladeError:
        """Return documents and contributions of hits that this shard ranked."""

        async def details(backend: LocalBackend) -> list[Detail]:
            started = time.perf_counter_ns()
            found = await asyncio.to_thread(
                self._details, backend.collection, query, ordinals, scores
            )
            self._metrics.stages({"fetch": time.perf_counter_ns() - started})
            return found

        return await self._answer(call, details)

    async def get(
        self, call: Call, ids: list[str], vectors: bool
    ) -> list[StoredDocument | None] | CspladeError:
        """Return the documents of those of the ids that this shard holds."""

        async def get(backend: LocalBackend) -> list[StoredDocument | None]:
            deadline = Deadline.after(call.remaining)
            return (await backend.documents.get(ids, deadline, vectors=vectors))[0]

        return await self._answer(call, get)

    async def scroll(
        self, call: Call, after: int, limit: int, filter: Filter | None, vectors: bool
    ) -> Page | CspladeError:
        """Return a page of this shard's documents."""

        async def scroll(backend: LocalBackend) -> Page:
            deadline = Deadline.after(call.remaining)
            return await backend.documents.scroll(
                after, limit, deadline, filter=filter, vectors=vectors
            )

        return await self._answer(call, scroll)

    async def count(self, call: Call, filter: Filter | None) -> int | CspladeError:
        """Return the number of this shard's documents."""

        async def count(backend: LocalBackend) -> int:
            deadline = Deadline.after(call.remaining)
            return (await backend.documents.count(deadline, filter=filter))[0]

        return await self._answer(call, count)

    def _details(
        self,
        collection: Collection,
        query: ShardQuery,
        ordinals: NDArray[np.int64],
        scores: NDArray[np.int32],
    ) -> list[Detail]:
        count = len(ordinals)
        none = np.zeros(1, np.int64)
        shards = np.full(count, self._shard, np.int32)
        task = SearchTask(_query(query._replace(k=count)), snapshot=collection.index.snapshot)
        task.impacts = _quantized(collection, task)
        task.result = SearchResult(np.array([0, count]), shards, ordinals, scores, none, none, {})
        hits = Plan(collection, NullObserver()).hits(task)
        return list(map(Detail.of, hits))


def _place() -> tuple[Path, str] | None:
    """Return the folder and the name of this replica's socket; None outside of Ray Serve."""
    try:
        context = serve.get_replica_context()
    except RayServeException:
        return None
    session = ray.get_runtime_context().get_session_name()
    folder = channel.folder_of(session, context.app_name, context.deployment)
    return folder, context.replica_tag


def _quantized(collection: Collection, task: SearchTask) -> ImpactBatch:
    assert task.query.vector is not None
    assert task.snapshot is not None
    return collection.quantize(SparseBatch.join([task.query.vector]), task.snapshot)


def _query(query: ShardQuery) -> Query:
    return Query(
        vector=(query.terms, query.weights),
        k=query.k,
        filter=query.filter,
        explain=query.explain,
        with_document=query.with_document,
        with_vector=query.with_vector,
    )
