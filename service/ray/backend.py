"""RayBackend: answer requests by the newest version that all replicas hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from operator import add
from typing import TypeVar

from ...core.document import TextKind
from ...core.errors import IncompatibleError, UnsupportedError
from ...core.filters import Filter
from ...core.results import Answer, Encoding, Explanation, StoredDocument, Verification
from ...engine.backend import CollectionInfo, Page, Query, Written
from ...engine.deadline import Deadline
from ...index import Upsert
from ..settings import Settings
from ..telemetry.metrics import Metrics
from .deployment import DeploymentClient
from .fanout import Fanout
from .look_up import LookUp
from .messages import Call, MovedError

log = logging.getLogger(__name__)

R = TypeVar("R")

RETRY_SECONDS = 0.05  # before a request asks again for a version that is being exchanged
NO_WRITES = (
    "documents: a service on Ray does not write; serve the index by one process with --writable, "
    "or build a new index and serve it as a new version"
)
INFO_SECONDS = 60.0  # that a replica may take to describe what it holds


class RayBackend:
    """A :class:`~csplade.engine.backend.SearchBackend` and
    :class:`~csplade.engine.backend.DocumentBackend` on deployments of Ray Serve; it reads only.

    Args:
        settings: All settings.
        metrics: Where the ingress's own stages are recorded.
        encoder: None if only vectors can be searched.
        shards: In order of their numbers.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        encoder: DeploymentClient | None,
        shards: Sequence[DeploymentClient],
    ) -> None:
        self._settings, self._metrics = settings, metrics
        self._encoder, self._shards = encoder, shards
        self._versions: dict[str, Fanout] = {}
        self._current: Fanout | None = None

    @property
    def ready(self) -> bool:
        """Whether there is a version that answers, and every deployment does."""
        return self._current is not None and all(one.up for one in self._deployments)

    @property
    def info(self) -> CollectionInfo:
        """What is searched now."""
        assert self._current is not None
        return self._current.info

    async def search(self, query: Query, deadline: Deadline) -> Answer:
        """See :meth:`csplade.engine.backend.SearchBackend.search`."""
        newest = self.info.index.generation
        if query.min_generation > newest:
            raise IncompatibleError(
                f"min_generation: {query.min_generation} is not there; the newest is {newest}; ask "
                "for that one"
            )
        return await self._follow(lambda fanout: fanout.search(query, deadline), deadline)

    async def search_batch(
        self, queries: Sequence[Query], deadline: Deadline
    ) -> list[Answer | Exception]:
        """See :meth:`csplade.engine.backend.SearchBackend.search_batch`."""
        assert self._current is not None
        self._current.check_room(len(queries))

        async def outcome(query: Query) -> Answer | Exception:
            try:
                return await self.search(query, deadline)
            except Exception as error:
                return error

        # Queries that are submitted together share messages.
        return list(await asyncio.gather(*map(outcome, queries)))

    async def encode(
        self,
        texts: Sequence[str],
        kind: TextKind,
        deadline: Deadline,
        *,
        attribution: bool = False,
    ) -> list[Encoding]:
        """See :meth:`csplade.engine.backend.SearchBackend.encode`."""
        return await self._follow(
            lambda fanout: fanout.encode(texts, kind, deadline, attribution), deadline
        )

    async def explain(
        self, query: Query, ids: Sequence[str], deadline: Deadline
    ) -> tuple[Answer, tuple[Explanation, ...]]:
        """See :meth:`csplade.engine.backend.SearchBackend.explain`."""
        return await self._follow(lambda fanout: fanout.explain(query, ids, deadline), deadline)

    async def verify(self, query: Query, deadline: Deadline) -> Verification:
        """See :meth:`csplade.engine.backend.SearchBackend.verify`."""
        return await self._follow(lambda fanout: fanout.verify(query, deadline), deadline)

    async def upsert(self, items: Sequence[Upsert], deadline: Deadline) -> Written:
        """See :meth:`csplade.engine.backend.DocumentBackend.upsert`."""
        raise UnsupportedError(NO_WRITES)

    async def delete(
        self, ids: Sequence[str], if_version: int | None, deadline: Deadline
    ) -> Written:
        """See :meth:`csplade.engine.backend.DocumentBackend.delete`."""
        raise UnsupportedError(NO_WRITES)

    async def delete_where(self, filter: Filter, deadline: Deadline) -> tuple[Written, int]:
        """See :meth:`csplade.engine.backend.DocumentBackend.delete_where`."""
        raise UnsupportedError(NO_WRITES)

    async def get(
        self, ids: Sequence[str], deadline: Deadline, *, vectors: bool = False
    ) -> tuple[list[StoredDocument | None], int]:
        """See :meth:`csplade.engine.backend.DocumentBackend.get`."""
        return await self._follow(lambda fanout: fanout.get(ids, deadline, vectors), deadline)

    async def scroll(
        self,
        after: int,
        limit: int,
        deadline: Deadline,
        *,
        filter: Filter | None = None,
        vectors: bool = False,
    ) -> Page:
        """See :meth:`csplade.engine.backend.DocumentBackend.scroll`."""
        return await self._follow(
            lambda fanout: fanout.scroll(after, limit, deadline, filter, vectors), deadline
        )

    async def count(self, deadline: Deadline, *, filter: Filter | None = None) -> tuple[int, int]:
        """See :meth:`csplade.engine.backend.DocumentBackend.count`."""
        return await self._follow(lambda fanout: fanout.count(deadline, filter), deadline)

    async def refresh(self) -> None:
        """Probe the deployments, and change to a version as soon as all of them hold it."""
        held = await asyncio.gather(*(one.probe() for one in self._deployments))
        newest = {versions[0] for versions in held if versions}
        if not all(held) or len(newest) != 1:
            return
        fanout = await self._version(newest.pop())
        if self._current is not fanout:
            log.info("serving", extra={"version": fanout.version})
            self._current = fanout

    @property
    def _deployments(self) -> list[DeploymentClient]:
        return [*self._shards, *([] if self._encoder is None else [self._encoder])]

    async def _follow(self, ask: Callable[[Fanout], Awaitable[R]], deadline: Deadline) -> R:
        """Ask the current version; ask another one if replicas no longer, or not yet, hold it."""
        fanout = self._current
        assert fanout is not None
        while True:
            try:
                return await ask(fanout)
            except MovedError as error:
                if deadline.remaining <= RETRY_SECONDS or not error.versions:
                    raise
                with suppress(MovedError):
                    fanout = await self._version(error.versions[0])
                await asyncio.sleep(RETRY_SECONDS)

    async def _version(self, version: str) -> Fanout:
        """Return the fan-out of a version."""
        if (fanout := self._versions.get(version)) is not None:
            return fanout
        call = Call(version, "", INFO_SECONDS)
        described: list[CollectionInfo] = await asyncio.gather(
            *(one.call("info", call) for one in self._deployments)
        )
        shards = [one.index for one in described[: len(self._shards)]]
        parts = tuple(part for manifest in shards for part in manifest.shards)
        encoder = None if self._encoder is None else described[-1].encoder
        statistics = [one.statistics for one in described if one.statistics is not None]
        info = CollectionInfo(
            replace(shards[0], shards=parts),
            encoder,
            reduce(add, statistics) if statistics else None,
        )
        look_up = None
        if encoder is not None:
            look_up = await asyncio.to_thread(LookUp.load, encoder, self._metrics)
        fanout = Fanout(
            version, info, self._encoder, look_up, self._shards, self._settings, self._metrics
        )
        kept = dict(list(self._versions.items())[-1:])  # replicas hold two versions at most
        self._versions = {**kept, version: fanout}
        return fanout
