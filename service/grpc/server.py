"""The server: listens at once, becomes ready when index and encoder are loaded, drains before it
ends.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from ...core.errors import InputError, UnavailableError
from ...engine.collection import Collection
from ...engine.local import Pipeline
from ...v1 import retrieval_pb2 as pb
from ...v1 import retrieval_pb2_grpc as rpc
from ..admission import Boundary
from ..auth import Keys, server_credentials
from ..settings import Settings
from ..telemetry.metrics import Metrics
from ..telemetry.tracing import tracer
from .servicer import RetrievalServicer

log = logging.getLogger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RetrievalService"].full_name
LAST_WORDS = 1.0  # seconds for answers that are on their way out when the handlers are through


def open_engine(settings: Settings, shards: Sequence[int] | None = None) -> Collection:
    """The engine that the settings describe, of all shards or some.

    Raises:
        InputError: no index is named; and what :meth:`Collection.open` raises.
    """
    if settings.index is None:
        raise InputError(
            "no index is given: name its directory as the argument or in the setting index"
        )
    return Collection.open(
        settings.index,
        model=settings.model.path,
        with_encoder=settings.model.enabled,
        device=settings.model.device,
        quantization=settings.model.quantization,
        encoder_threads=settings.model.threads,
        index_threads=settings.scoring.threads,
        index_device=settings.scoring.device,
        shards=shards,
    )


class Server:
    """One gRPC server with its metrics endpoint.

    Args:
        settings: the whole tree.
        opener: makes the engine, in a thread; by default what the settings describe.

    Attributes:
        address: ``host:port`` that it listens at, once started.
        metrics_address: likewise of the metrics endpoint; "" without one.
    """

    def __init__(
        self, settings: Settings, opener: Callable[[Settings], Collection] = open_engine
    ) -> None:
        self._settings, self._opener = settings, opener
        self.metrics = Metrics()
        self.address = self.metrics_address = ""
        self._pipeline: Pipeline | None = None

    async def start(self) -> None:
        """Listen: health tells alive but not ready, everything else is UNAVAILABLE.

        Raises:
            InputError: a file of the security settings that cannot be used.
            UnavailableError: a port that is taken.
        """
        settings = self._settings
        keys = (
            Keys(settings.security.keys_file) if settings.security.keys_file is not None else None
        )
        credentials = server_credentials(settings.security)
        self._tracer = tracer(settings.tracing)
        self._boundary = Boundary(
            self.metrics, keys, log_requests=settings.logging.requests, tracer=self._tracer
        )
        self._servicer = RetrievalServicer(settings, self.metrics, self._boundary)
        self._health = health.HealthServicer()
        self._grpc = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", settings.server.receive_bytes),
                ("grpc.max_send_message_length", settings.server.send_bytes),
                ("grpc.so_reuseport", 0),
            ],
        )
        rpc.add_RetrievalServiceServicer_to_server(self._servicer, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        if settings.server.reflection:
            names = (SERVICE_NAME, HEALTH_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._grpc)
        await self._health.set("", HealthCheckResponse.SERVING)
        await self._health.set(SERVICE_NAME, HealthCheckResponse.NOT_SERVING)

        if keys is not None and credentials is None:
            log.warning("API keys travel in plain text: security has no tls_certificate")
        try:
            self._bind(credentials)
            if settings.metrics.enabled:
                self._start_metrics()
        except UnavailableError:
            await self._grpc.stop(0)
            raise
        await self._grpc.start()

    def _bind(self, credentials: grpc.ServerCredentials | None) -> None:
        host = self._settings.server.host
        wanted = _address(host, self._settings.server.port)
        try:
            if credentials is None:
                port = self._grpc.add_insecure_port(wanted)
            else:
                port = self._grpc.add_secure_port(wanted, credentials)
        except RuntimeError:
            raise UnavailableError(
                f"cannot listen at {wanted} (server.host, server.port): taken or not ours"
            ) from None
        self.address = _address(host, port)

    def _start_metrics(self) -> None:
        host, port = self._settings.metrics.host, self._settings.metrics.port
        try:
            self._http, self._http_thread = start_http_server(port, host, self.metrics.registry)
        except OSError as error:
            raise UnavailableError(
                f"cannot listen at {_address(host, port)} (metrics.host, metrics.port): "
                f"{error.strerror}"
            ) from None
        self.metrics_address = _address(host, self._http.server_port)

    async def load(self) -> None:
        """Open the engine, try it once, become ready. Raises what the opener raises."""
        engine = await asyncio.to_thread(self._opener, self._settings)
        if engine.encoder is not None:
            await asyncio.to_thread(engine.search, ["ready"], 1, fetch=False)
            encoder = engine.encoder
            self.metrics.model_info.info(
                {
                    "name": encoder.name,
                    "fingerprint": encoder.fingerprint,
                    "device": encoder.device,
                    "query_encoder": encoder.manifest.query_encoder,
                }
            )
        self.metrics.index(engine.index.manifest)
        self._pipeline = self._servicer.pipeline = Pipeline(engine, self._settings, self.metrics)
        self._boundary.state = "ready"
        await self._health.set(SERVICE_NAME, HealthCheckResponse.SERVING)
        manifest = engine.index.manifest
        log.info(
            "serving",
            extra={
                "address": self.address,
                "metrics": self.metrics_address,
                "documents": manifest.documents,
                "generation": manifest.generation,
                "model": None if engine.encoder is None else engine.encoder.name,
            },
        )

    async def drain(self) -> None:
        """Refuse new requests, give those in flight ``server.drain_seconds`` to finish, close
        everything.
        """
        log.info("draining")
        self._boundary.state = "draining"
        self._servicer.draining.set()
        await self._health.set(SERVICE_NAME, HealthCheckResponse.NOT_SERVING)
        try:
            await asyncio.wait_for(self._boundary.idle.wait(), self._settings.server.drain_seconds)
        except TimeoutError:
            log.warning(
                "requests are still in flight after server.drain_seconds, they are cancelled"
            )
        await self._grpc.stop(LAST_WORDS)
        if self._pipeline is not None:
            await asyncio.to_thread(self._pipeline.close)
            self._pipeline.engine.close()
        if self.metrics_address:
            await asyncio.to_thread(self._http.shutdown)
            self._http.server_close()
            self._http_thread.join()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        log.info("stopped")


async def serve(
    settings: Settings,
    on_ready: Callable[[Server], None] | None = None,
    opener: Callable[[Settings], Collection] = open_engine,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        settings: the whole tree.
        on_ready: called once everything is loaded.
        opener: as for :class:`Server`.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = Server(settings, opener)
    await server.start()
    try:
        await server.load()
        if on_ready is not None:
            on_ready(server)
        await stop.wait()
    finally:
        await server.drain()


@contextmanager
def running(
    settings: Settings, opener: Callable[[Settings], Collection] = open_engine
) -> Iterator[Server]:
    """A ready server in a thread of this process, drained at the end of the block: for demos and
    tests.
    """
    ready: Future[tuple[Server, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        stop = asyncio.Event()
        server = Server(settings, opener)
        await server.start()
        try:
            await server.load()
            ready.set_result((server, asyncio.get_running_loop(), stop))
            await stop.wait()
        finally:
            await server.drain()

    def run() -> None:
        try:
            asyncio.run(live())
        except Exception as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run, name="csplade-server")
    thread.start()
    server, loop, stop = ready.result()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
