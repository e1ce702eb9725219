"""The deployments that speak gRPC: the same servicer and boundary as in the single process, in
Ray's replicas.

Ray calls the method of a deployment that is named like the rpc.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from ...engine.local import Pipeline
from ...v1 import retrieval_pb2 as pb
from ..admission import Boundary
from ..auth import Keys
from ..grpc.server import SERVICE_NAME, open_engine
from ..grpc.servicer import RetrievalServicer
from ..settings import Settings
from ..telemetry import logs
from ..telemetry.metrics import Metrics
from ..telemetry.tracing import tracer
from .backend import Catalog, Fanout, Peer
from .grpc_context import AbortedError, RayContext, is_draining
from .metrics import RayInstruments
from .replicas import Call, MovedError, Target, Versions

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
R = TypeVar("R")

LOOK_EVERY = (
    0.5  # seconds between looks at the deployments behind, and at whether the replica is ending
)
NOTICE = 2.0  # seconds between Ray's decision to end a replica and the end of streams: HAProxy knows first
PATIENCE = 0.05  # seconds before a request asks again for a version that is just being exchanged


class Front:
    """gRPC of one replica.

    Args:
        settings: the whole tree.
    """

    def __init__(self, settings: Settings) -> None:
        logs.configure(settings.logging.level)
        self._settings = settings
        self._metrics = Metrics(RayInstruments())
        keys = (
            Keys(settings.security.keys_file) if settings.security.keys_file is not None else None
        )
        self._tracer = tracer(settings.tracing)
        self._boundary = Boundary(
            self._metrics, keys, log_requests=settings.logging.requests, tracer=self._tracer
        )
        self._servicer = self._make_servicer()
        self._boundary.state = "ready"
        self._looking = asyncio.create_task(self._look())

    def __del__(self) -> None:
        """Send the spans that wait. Ray calls this when it ends the replica, Python perhaps once
        more.
        """
        if (tracer := vars(self).pop("_tracer", None)) is not None:
            tracer.close()

    def _make_servicer(self) -> RetrievalServicer:
        return RetrievalServicer(self._settings, self._metrics, self._boundary)

    async def Search(self, request: pb.SearchRequest, grpc_context: Any) -> pb.SearchResponse:
        """Rank for one query."""
        return await self._unary(self._servicer.Search, request, grpc_context, pb.SearchResponse)

    async def Encode(self, request: pb.EncodeRequest, grpc_context: Any) -> pb.EncodeResponse:
        """Texts to vectors."""
        return await self._unary(self._servicer.Encode, request, grpc_context, pb.EncodeResponse)

    async def Info(self, request: pb.InfoRequest, grpc_context: Any) -> pb.InfoResponse:
        """What is being served."""
        return await self._unary(self._servicer.Info, request, grpc_context, pb.InfoResponse)

    async def Verify(self, request: pb.VerifyRequest, grpc_context: Any) -> pb.VerifyResponse:
        """Compare a search with the exhaustive reference."""
        return await self._unary(self._servicer.Verify, request, grpc_context, pb.VerifyResponse)

    async def SearchStream(
        self, incoming: AsyncIterator[pb.SearchStreamRequest], grpc_context: Any
    ) -> AsyncIterator[pb.SearchStreamResponse]:
        """Rank for many queries."""
        context = RayContext(grpc_context, incoming)
        work = asyncio.create_task(self._servicer.SearchStream(incoming, context))
        work.add_done_callback(lambda _: context.finish())
        try:
            while (message := await context.next()) is not None:
                yield message
            await work
        except AbortedError:
            return
        finally:
            work.cancel()

    async def Check(self, request: HealthCheckRequest, grpc_context: Any) -> HealthCheckResponse:
        """grpc.health.v1: how a service is now."""
        status = self._health(request.service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            grpc_context.set_code(grpc.StatusCode.NOT_FOUND)
        return HealthCheckResponse(status=status)

    async def Watch(
        self, request: HealthCheckRequest, grpc_context: Any
    ) -> AsyncIterator[HealthCheckResponse]:
        """grpc.health.v1: how a service is, now and whenever that changes, until the replica ends."""
        told = None
        while True:
            draining = self._servicer.draining.is_set()
            if (status := self._health(request.service)) != told:
                yield HealthCheckResponse(status=status)
                told = status
            if draining:
                grpc_context.set_code(grpc.StatusCode.UNAVAILABLE)
                grpc_context.set_details("the server is shutting down, try another one")
                return
            await asyncio.sleep(LOOK_EVERY)

    async def _unary(
        self,
        method: Callable[..., Awaitable[M]],
        request: Message,
        grpc_context: Any,
        kind: type[M],
    ) -> M:
        context = RayContext(grpc_context)
        size, limit = request.ByteSize(), self._settings.server.receive_bytes
        try:
            if size > limit:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"CLIENT: Received message larger than max ({size} vs. {limit})",
                    (),
                )
            return await method(request, context)
        except AbortedError:
            return kind()

    def _health(self, service: str) -> int:
        if service in ("", HEALTH_NAME):
            return HealthCheckResponse.SERVING
        if service != SERVICE_NAME:
            return HealthCheckResponse.SERVICE_UNKNOWN
        ready = self._complete() and not self._servicer.draining.is_set()
        return HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING

    def _complete(self) -> bool:
        """Whether everything that answers need is there."""
        return self._servicer.pipeline is not None

    async def _look(self) -> None:
        """Look around for ever."""
        while True:
            try:
                if is_draining() and not self._servicer.draining.is_set():
                    await asyncio.sleep(NOTICE)
                    self._servicer.draining.set()
                await self._look_around()
            except Exception:
                log.exception("looking around failed, it is tried again")
            await asyncio.sleep(LOOK_EVERY)

    async def _look_around(self) -> None:
        """What is to be looked at beside the replica itself."""


class Single(Front):
    """Encoder and the only shard in the same replica: a request makes one hop."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._versions = Versions(self._load)

    def _load(self, target: Target) -> Pipeline:
        engine = open_engine(target.settings(self._settings, with_encoder=True))
        if (encoder := engine.encoder) is not None:
            engine.search(["ready"], 1, fetch=False)
            self._metrics.model_info.info(
                {"name": encoder.name, "fingerprint": encoder.fingerprint, "device": encoder.device}
            )
        self._metrics.index(engine.index.manifest)
        return Pipeline(engine, self._settings, self._metrics)

    async def reconfigure(self, target: dict[str, Any]) -> None:
        """Ray tells what to serve: before the first request, and whenever the configuration
        changes.
        """
        await self._versions.update(Target.model_validate(target))
        self._servicer.pipeline = self._versions.newest

    async def _look_around(self) -> None:
        if self._versions.names:
            self._servicer.pipeline = self._versions.newest


class Ingress(Front):
    """Validates, lets the encoder encode and all shards search, merges.

    Args:
        settings: the whole tree.
        shards: handle of each shard's deployment, in order of number.
        encoder: handle of the encoder's, None when vectors only can be searched.
    """

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, settings: Settings, shards: Sequence[Any], encoder: Any | None
    ) -> None:
        self._shards = [Peer(f"shard {i}", handle) for i, handle in enumerate(shards)]
        self._encoder = None if encoder is None else Peer("the encoder", encoder)
        self._fanouts: dict[str, Fanout] = {}
        super().__init__(settings)
        while self._servicer.pipeline is None:
            await self._look_around()
            await asyncio.sleep(PATIENCE)

    @property
    def _peers(self) -> list[Peer]:
        return [*self._shards, *([] if self._encoder is None else [self._encoder])]

    def _make_servicer(self) -> RetrievalServicer:
        return _FollowingServicer(self._settings, self._metrics, self._boundary, self._fanout)

    def _complete(self) -> bool:
        return super()._complete() and all(peer.up for peer in self._peers)

    async def _look_around(self) -> None:
        """See who lives, and go over to a version as soon as all say that they hold it."""
        held = await asyncio.gather(*(peer.look() for peer in self._peers))
        newest = {versions[0] for versions in held if versions}
        if all(held) and len(newest) == 1:
            await self._fanout(newest.pop(), prefer=True)

    async def _fanout(self, version: str, *, prefer: bool = False) -> Fanout:
        """The fan-out of a version; ``prefer`` makes it the one for requests to come."""
        fanout = self._fanouts.get(version)
        if fanout is None:
            call = Call(version, "", None)
            shards = await asyncio.gather(*(shard.call("facts", call) for shard in self._shards))
            encoder = None if self._encoder is None else await self._encoder.call("facts", call)
            engine = Catalog(shards, encoder)
            fanout = Fanout(
                version, engine, self._encoder, self._shards, self._settings, self._metrics
            )
            kept = dict(list(self._fanouts.items())[-1:])  # two versions at most are held anywhere
            self._fanouts = {**kept, version: fanout}
        serving: Any = self._servicer.pipeline
        if prefer and serving is not fanout:
            log.info("serving", extra={"version": version})
            self._servicer.pipeline = fanout  # type: ignore[assignment]
        return fanout


_chosen: ContextVar[Any] = ContextVar(
    "fanout", default=None
)  # the one that this request has gone over to


class _FollowingServicer(RetrievalServicer):
    """Does a request again by another version when replicas no longer, or not yet, hold the one it
    began with.

    Args:
        fanout: gives the fan-out of a version.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        boundary: Boundary,
        fanout: Callable[[str], Awaitable[Fanout]],
    ) -> None:
        super().__init__(settings, metrics, boundary)
        self._fanout = fanout

    def _ready(self) -> Pipeline:
        return _chosen.get() or super()._ready()

    async def _search(
        self, request: pb.SearchRequest, remaining: float | None
    ) -> pb.SearchResponse:
        return await self._following(super()._search, request, remaining)

    async def _encode(
        self, request: pb.EncodeRequest, remaining: float | None
    ) -> pb.EncodeResponse:
        return await self._following(super()._encode, request, remaining)

    async def _verify(
        self, request: pb.VerifyRequest, remaining: float | None
    ) -> pb.VerifyResponse:
        return await self._following(super()._verify, request, remaining)

    async def _following(
        self, method: Callable[..., Awaitable[R]], request: Any, remaining: float | None
    ) -> R:
        loop = asyncio.get_running_loop()
        limit = self._settings.limits.timeout_seconds
        end = loop.time() + (limit if remaining is None else min(remaining, limit))
        while True:
            try:
                return await method(request, max(0.0, end - loop.time()))
            except MovedError as error:
                if loop.time() + PATIENCE >= end or not error.versions:
                    raise
                with suppress(MovedError):
                    _chosen.set(await self._fanout(error.versions[0]))
                await asyncio.sleep(PATIENCE)
