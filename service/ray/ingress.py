"""The deployments that speak gRPC: servicer and admission of the single process, in Ray's replicas.

Ray calls the method of a deployment that has the name of the rpc.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import ray
from google.protobuf.message import Message
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from ...engine.local import LocalBackend
from ...v1 import documents_pb2 as document_pb
from ...v1 import retrieval_pb2 as pb
from .. import compose
from ..documents import Documents
from ..drain import Lifecycle
from ..grpc.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING
from ..grpc.servicer import DocumentServicer, RetrievalServicer
from ..names import SERVICE_NAMES
from ..retrieval import Retrieval
from ..settings import Settings
from ..telemetry import logs
from ..telemetry.metrics import Metrics
from ..telemetry.tracing import tracer
from . import grpc_context
from .backend import RayBackend
from .channel import folder_of
from .cluster import is_stopping
from .deployment import DeploymentClient
from .grpc_context import AbortedError, RayContext
from .metrics import RayInstruments
from .versions import Target, Versions

if TYPE_CHECKING:
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from ..http.transcode import Transcoder

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

REFRESH_SECONDS = (
    0.5  # between looks at the deployments behind, and at whether the replica is ending
)
NOTICE_SECONDS = (
    2.0  # from Ray's decision to end a replica to the end of streams: HAProxy knows first
)
START_SECONDS = 0.05  # between looks while the ingress starts


class ServiceReplica:
    """The gRPC side of one replica.

    Args:
        settings: All settings.
    """

    def __init__(self, settings: Settings) -> None:
        logs.configure(settings.logging.level)
        self._settings = settings
        self._metrics = Metrics(RayInstruments())
        self._tracer = tracer(settings.tracing)
        self._lifecycle = Lifecycle()
        self._admission = compose.admission(settings, self._lifecycle, self._metrics, self._tracer)
        self._retrieval = Retrieval(settings, self._metrics, self._admission)
        self._documents = Documents(settings, self._metrics)
        self._servicer = RetrievalServicer(self._retrieval, self._admission)
        self._document_servicer = DocumentServicer(self._documents, self._admission)
        grpc_context.admit_with(self._admission)
        self._lifecycle.loaded()
        self._refreshing = asyncio.create_task(self._refresh_forever())

    def __del__(self) -> None:
        """Export the remaining spans. Ray calls this when it ends the replica, perhaps twice."""
        if (tracer := vars(self).pop("_tracer", None)) is not None:
            tracer.close()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the HTTP application. Ray calls it once, if HTTP is enabled."""
        from ..http.app import build_app

        def is_ready() -> bool:
            return self._is_ready() and not self._lifecycle.draining.is_set()

        explorer = self._explorer if self._settings.http.explorer else None
        return build_app(
            self._settings, self._retrieval, self._documents, self._admission, is_ready, explorer
        )

    def _explorer(self, transcoder: Transcoder) -> list[BaseRoute]:
        """Return the explorer's routes, without uploads: one replica would not find another's."""
        from ..http.explorer import explorer_routes
        from ..http.services import OtherServices

        services = OtherServices(self._settings.http.services)
        server = self._settings.server
        address = f"{server.host}:{server.port}"
        return explorer_routes(transcoder, self._admission, services, None, lambda: address)

    async def Search(self, request: pb.SearchRequest, grpc_context: Any) -> pb.SearchResponse:
        """Rank for one query."""
        return await self._unary(self._servicer.Search, request, grpc_context, pb.SearchResponse)

    async def SearchBatch(
        self, request: pb.SearchBatchRequest, grpc_context: Any
    ) -> pb.SearchBatchResponse:
        """Rank for many queries together."""
        return await self._unary(
            self._servicer.SearchBatch, request, grpc_context, pb.SearchBatchResponse
        )

    async def Explain(self, request: pb.ExplainRequest, grpc_context: Any) -> pb.ExplainResponse:
        """Score documents by their ids."""
        return await self._unary(self._servicer.Explain, request, grpc_context, pb.ExplainResponse)

    async def Encode(self, request: pb.EncodeRequest, grpc_context: Any) -> pb.EncodeResponse:
        """Encode texts to vectors."""
        return await self._unary(self._servicer.Encode, request, grpc_context, pb.EncodeResponse)

    async def Info(self, request: pb.InfoRequest, grpc_context: Any) -> pb.InfoResponse:
        """Tell what is served."""
        return await self._unary(self._servicer.Info, request, grpc_context, pb.InfoResponse)

    async def Verify(self, request: pb.VerifyRequest, grpc_context: Any) -> pb.VerifyResponse:
        """Compare a search with the exhaustive reference."""
        return await self._unary(self._servicer.Verify, request, grpc_context, pb.VerifyResponse)

    async def SearchStream(
        self, incoming: AsyncIterator[pb.SearchStreamRequest], grpc_context: Any
    ) -> AsyncIterator[pb.SearchStreamResponse]:
        """Rank for many queries."""
        async for message in _stream(self._servicer.SearchStream, incoming, grpc_context):
            yield message

    async def Upsert(
        self, request: document_pb.UpsertRequest, grpc_context: Any
    ) -> document_pb.UpsertResponse:
        """Add documents or replace them."""
        method = self._document_servicer.Upsert
        return await self._unary(method, request, grpc_context, document_pb.UpsertResponse)

    async def UpsertStream(
        self, incoming: AsyncIterator[document_pb.UpsertRequest], grpc_context: Any
    ) -> AsyncIterator[document_pb.UpsertStreamResponse]:
        """Upsert request after request."""
        method = self._document_servicer.UpsertStream
        async for message in _stream(method, incoming, grpc_context):
            yield message

    async def Delete(
        self, request: document_pb.DeleteRequest, grpc_context: Any
    ) -> document_pb.DeleteResponse:
        """Delete documents."""
        method = self._document_servicer.Delete
        return await self._unary(method, request, grpc_context, document_pb.DeleteResponse)

    async def Get(
        self, request: document_pb.GetRequest, grpc_context: Any
    ) -> document_pb.GetResponse:
        """Read documents by id."""
        method = self._document_servicer.Get
        return await self._unary(method, request, grpc_context, document_pb.GetResponse)

    async def Scroll(
        self, request: document_pb.ScrollRequest, grpc_context: Any
    ) -> document_pb.ScrollResponse:
        """Read a page of documents."""
        method = self._document_servicer.Scroll
        return await self._unary(method, request, grpc_context, document_pb.ScrollResponse)

    async def Count(
        self, request: document_pb.CountRequest, grpc_context: Any
    ) -> document_pb.CountResponse:
        """Count documents."""
        method = self._document_servicer.Count
        return await self._unary(method, request, grpc_context, document_pb.CountResponse)

    async def Check(self, request: HealthCheckRequest, grpc_context: Any) -> HealthCheckResponse:
        """grpc.health.v1: return the status of a service now."""
        status = self._health(request.service)
        if status == SERVICE_UNKNOWN:
            grpc_context.set_code(grpc.StatusCode.NOT_FOUND)
        return HealthCheckResponse(status=status)

    async def Watch(
        self, request: HealthCheckRequest, grpc_context: Any
    ) -> AsyncIterator[HealthCheckResponse]:
        """grpc.health.v1: yield the status of a service, now and at each change."""
        sent = None
        while True:
            draining = self._lifecycle.draining.is_set()
            if (status := self._health(request.service)) != sent:
                yield HealthCheckResponse(status=status)
                sent = status
            if draining:
                grpc_context.set_code(grpc.StatusCode.UNAVAILABLE)
                grpc_context.set_details("the server is shutting down; retry with another one")
                return
            await asyncio.sleep(REFRESH_SECONDS)

    async def _unary(
        self,
        method: Callable[..., Awaitable[M]],
        request: Message,
        ray_context: Any,
        kind: type[M],
    ) -> M:
        context = RayContext(ray_context)
        size = request.ByteSize() if isinstance(request, Message) else 0
        limit = self._settings.server.receive_bytes
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

    def _health(self, service: str) -> HealthCheckResponse.ServingStatus:
        if service in ("", HEALTH_NAME):
            return SERVING
        if service not in SERVICE_NAMES:
            return SERVICE_UNKNOWN
        ready = self._is_ready() and not self._lifecycle.draining.is_set()
        return SERVING if ready else NOT_SERVING

    def _is_ready(self) -> bool:
        """Whether everything that answers need is there."""
        return self._retrieval.backend is not None

    async def _refresh_forever(self) -> None:
        while True:
            try:
                if grpc_context.is_draining() and not self._lifecycle.draining.is_set():
                    await asyncio.sleep(NOTICE_SECONDS)
                    # Requests that HAProxy still sends here are answered: only streams must end.
                    self._lifecycle.drain(reject=False)
                if is_stopping():
                    self._lifecycle.drain()
                await self._refresh()
            except Exception:
                log.exception("refreshing failed, it is tried again")
            await asyncio.sleep(REFRESH_SECONDS)

    async def _refresh(self) -> None:
        """Look at what is outside this replica, or new in it."""


class Single(ServiceReplica):
    """Encoder and the only shard in the same replica: a request makes one hop."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._versions = Versions(self._load)

    def _load(self, target: Target) -> LocalBackend:
        settings = target.settings(self._settings, with_encoder=True)
        return compose.ready_backend(compose.open_collection(settings), settings, self._metrics)

    async def reconfigure(self, target: dict[str, Any]) -> None:
        """Serve a target. Ray calls it before the first request and at each new configuration."""
        await self._versions.update(Target.model_validate(target))
        await self._refresh()

    async def _refresh(self) -> None:
        if self._versions.names:
            newest = self._versions.newest
            self._retrieval.backend, self._documents.backend = newest, newest.documents


class Ingress(ServiceReplica):
    """Validates, lets the encoder encode and all shards search, merges.

    Args:
        settings: All settings.
        shards: Handle of each shard's deployment, in order of their numbers.
        encoder: Handle of the encoder's; None if only vectors can be searched.
    """

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, settings: Settings, shards: Sequence[Any], encoder: Any | None
    ) -> None:
        super().__init__(settings)
        session = ray.get_runtime_context().get_session_name()
        self._backend = RayBackend(
            settings,
            self._metrics,
            None if encoder is None else DeploymentClient("the encoder", encoder),
            [
                DeploymentClient(
                    f"shard {i}",
                    handle,
                    folder_of(session, handle.app_name, handle.deployment_name),
                )
                for i, handle in enumerate(shards)
            ],
        )
        while self._retrieval.backend is None:
            await self._refresh()
            await asyncio.sleep(START_SECONDS)

    def _is_ready(self) -> bool:
        return super()._is_ready() and self._backend.ready

    async def _refresh(self) -> None:
        await self._backend.refresh()
        if self._backend.ready:
            self._retrieval.backend = self._documents.backend = self._backend


async def _stream(
    method: Callable[..., Awaitable[None]], incoming: AsyncIterator[Any], ray_context: Any
) -> AsyncIterator[Any]:
    """Run a streaming method of a servicer; yield what it writes."""
    context = RayContext(ray_context, incoming)
    handler = asyncio.ensure_future(method(incoming, context))
    handler.add_done_callback(lambda _: context.finish())
    try:
        while (message := await context.next()) is not None:
            yield message
        await handler
    except AbortedError:
        return
    finally:
        handler.cancel()
