"""The gRPC server of one process: listen at once, load, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection

from ...core.errors import UnavailableError
from ...engine.collection import Collection
from ...engine.local import LocalBackend
from ...v1 import documents_pb2_grpc as document_rpc
from ...v1 import retrieval_pb2_grpc as rpc
from .. import compose
from ..auth import server_credentials
from ..compose import Opener, open_collection
from ..documents import Documents
from ..drain import Lifecycle
from ..names import RETRIEVAL, SERVICE_NAMES
from ..retrieval import Retrieval
from ..settings import Settings
from ..telemetry.metrics import Metrics
from ..telemetry.metrics_server import MetricsServer
from ..telemetry.tracing import tracer
from .health import NOT_SERVING, SERVING, HealthServicer
from .interceptor import AdmissionInterceptor
from .options import allow_connections, server_options
from .servicer import DocumentServicer, RetrievalServicer

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from ..http.server import HttpServer
    from ..http.services import OtherServices
    from ..http.temporary import TemporaryCollections
    from ..http.transcode import Transcoder

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0  # for answers that are still being sent when their handlers have ended
# Calls beyond limits.in_flight are rejected by csplade, with the time to retry after; beyond this
# multiple of it by gRPC, without.
HARD_LIMIT = 2


class Server:
    """One gRPC server with its metrics endpoint.

    Args:
        settings: All settings.
        opener: Opens the collection, in a thread; by default what the settings describe.

    Attributes:
        address: ``host:port`` that it listens at, once started.
        http_address, metrics_address: The same of HTTP and of the metrics endpoint; "" without one.
    """

    def __init__(self, settings: Settings, opener: Opener = open_collection) -> None:
        self._settings, self._opener = settings, opener
        self.metrics = Metrics()
        self.address = self.http_address = self.metrics_address = ""
        self._http: HttpServer | None = None
        self._uploads: TemporaryCollections | None = None
        self._services: OtherServices | None = None
        self._backend: LocalBackend | None = None
        self._local: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen: health says alive but not ready, everything else is UNAVAILABLE.

        Raises:
            InputError: a file of the security settings that cannot be used.
            UnavailableError: a port that is taken.
        """
        settings = self._settings
        allow_connections(settings.limits.connections)
        credentials = server_credentials(settings.security)
        self._tracer = tracer(settings.tracing)
        self._lifecycle = Lifecycle()
        self._admission = compose.admission(settings, self._lifecycle, self.metrics, self._tracer)
        self._retrieval = Retrieval(settings, self.metrics, self._admission)
        self._documents = Documents(settings, self.metrics)
        self._health = HealthServicer()
        self._grpc = grpc.aio.server(
            interceptors=[AdmissionInterceptor(self._admission)],
            options=server_options(settings),
            maximum_concurrent_rpcs=HARD_LIMIT * settings.limits.in_flight,
        )
        rpc.add_RetrievalServiceServicer_to_server(
            RetrievalServicer(self._retrieval, self._admission), self._grpc
        )
        document_rpc.add_DocumentServiceServicer_to_server(
            DocumentServicer(self._documents, self._admission), self._grpc
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        if settings.server.reflection:
            names = (*SERVICE_NAMES, HEALTH_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._grpc)
        self._health.set("", SERVING)
        self._set_health(NOT_SERVING)

        if settings.security.keys_file is not None and credentials is None:
            log.warning("API keys travel in plain text: security has no tls_certificate")
        try:
            self._bind(credentials)
            if settings.server.health_socket is not None:
                self._local = self._bind_health(settings.server.health_socket)
            if settings.http.enabled:
                self._start_http()
            if settings.metrics.enabled:
                self._start_metrics()
            await self._grpc.start()
            if self._local is not None:
                await self._local.start()
        except BaseException:
            await self._release()
            raise

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
                f"server.host, server.port: cannot listen at {wanted}, it is taken or not of this "
                "machine; choose another"
            ) from None
        self.address = _address(host, port)

    def _bind_health(self, path: Path) -> grpc.aio.Server:
        """Return a server of health alone at a Unix socket, for whom has no certificate."""
        server = grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            server.add_insecure_port(f"unix:{path}")
        except RuntimeError:
            raise UnavailableError(
                f"server.health_socket: cannot listen at {path}; choose a path in a folder that "
                "exists and is writable"
            ) from None
        return server

    def _start_http(self) -> None:
        from ..http.app import build_app
        from ..http.server import HttpServer

        app = build_app(
            self._settings,
            self._retrieval,
            self._documents,
            self._admission,
            lambda: self._health.is_serving(RETRIEVAL),
            self._explorer() if self._settings.http.explorer else None,
        )
        server = HttpServer(self._settings, app)
        server.start()
        self._http, self.http_address = server, server.address

    def _explorer(self) -> Callable[[Transcoder], list[BaseRoute]]:
        from ..http.explorer import explorer_routes
        from ..http.services import OtherServices
        from ..http.temporary import TemporaryCollections

        services = self._services = OtherServices(self._settings.http.services)
        uploads = TemporaryCollections(self._settings, self.metrics, self._retrieval)
        self._uploads = uploads
        return lambda transcoder: explorer_routes(
            transcoder, self._admission, services, uploads, lambda: self.address
        )

    def _start_metrics(self) -> None:
        settings = self._settings.metrics
        keys = self._admission.keys if settings.needs_key else None
        try:
            self._metrics_server = MetricsServer(
                self.metrics.registry,
                settings.host,
                settings.port,
                None if keys is None else keys.check_any,
            )
        except OSError as error:
            raise UnavailableError(
                f"metrics.host, metrics.port: cannot listen at "
                f"{_address(settings.host, settings.port)}: {error.strerror}; choose another"
            ) from None
        self.metrics_address = _address(settings.host, self._metrics_server.port)

    async def load(self) -> None:
        """Open the collection, search it once, become ready. Raises what the opener raises."""
        backend = await _in_daemon_thread(self._open)
        self._backend = self._retrieval.backend = backend
        self._documents.backend = backend.documents
        self._lifecycle.loaded()
        self._set_health(SERVING)
        info = backend.info
        log.info(
            "serving",
            extra={
                "address": self.address,
                "http": self.http_address,
                "metrics": self.metrics_address,
                "documents": info.index.documents,
                "generation": info.index.generation,
                "model": None if info.encoder is None else info.encoder.name,
            },
        )

    def _set_health(self, status: HealthCheckResponse.ServingStatus) -> None:
        for name in SERVICE_NAMES:
            self._health.set(name, status)

    def _open(self) -> LocalBackend:
        collection: Collection = self._opener(self._settings)
        return compose.ready_backend(collection, self._settings, self.metrics)

    async def drain(self) -> None:
        """Reject new requests and answer those in flight.

        First health says NOT_SERVING for ``server.lame_duck_seconds`` while requests are still
        accepted, so that load balancers leave in time. Requests in flight then have
        ``server.drain_seconds``.
        """
        settings = self._settings.server
        log.info("draining")
        self._set_health(NOT_SERVING)
        if self._lifecycle.ready and self._lifecycle.in_flight:
            await asyncio.sleep(settings.lame_duck_seconds)
        self._lifecycle.drain()
        try:
            await asyncio.wait_for(self._lifecycle.idle.wait(), settings.drain_seconds)
        except TimeoutError:
            log.warning("requests are still in flight after server.drain_seconds")

    async def stop(self) -> None:
        """Close the connections and everything else.

        Calls that no handler has started, and those still in flight, end with CANCELLED.
        """
        await self._release()
        log.info("stopped")

    async def _release(self) -> None:
        if self._http is not None:
            await self._http.stop()
        await self._grpc.stop(FLUSH_SECONDS)
        await self.remove_uploads()
        if self._services is not None:
            await self._services.close()
        if self._local is not None:
            await self._local.stop(None)
        await self.close_collection()
        if self.metrics_address:
            await asyncio.to_thread(self._metrics_server.close)
        await self.flush()

    async def close_collection(self) -> None:
        """Finish what is queued, then close the index."""
        if self._backend is not None:
            await asyncio.to_thread(self._backend.close)

    async def remove_uploads(self) -> None:
        """Delete the collections of the explorer."""
        if self._uploads is not None:
            await self._uploads.remove_old(everything=True)

    async def flush(self) -> None:
        """Export the remaining spans."""
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)


async def serve(
    settings: Settings,
    on_ready: Callable[[Server], None] | None = None,
    opener: Opener = open_collection,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and end; a second signal ends at once.

    The process ends without closing gRPC: that would end calls which have arrived, but which no
    handler has started, with CANCELLED. A connection that breaks gives UNAVAILABLE, which callers
    retry.

    Args:
        settings: All settings.
        on_ready: Called once everything is loaded.
        opener: As for :class:`Server`.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            _exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    server = Server(settings, opener)
    await server.start()
    stopping = asyncio.create_task(stop.wait())
    loading = asyncio.create_task(server.load())
    try:
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            loading.result()
            if on_ready is not None:
                on_ready(server)
            await stopping
    except BaseException:
        await server.drain()
        await server.stop()
        raise
    await server.drain()
    await asyncio.sleep(FLUSH_SECONDS)
    await server.remove_uploads()
    if settings.writable:
        await server.close_collection()
    await server.flush()
    log.info("stopped")
    _exit(0)


@contextmanager
def running(settings: Settings, opener: Opener = open_collection) -> Iterator[Server]:
    """Run a ready server in a thread of this process and drain it at the end of the block."""
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
            await server.stop()

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


async def _in_daemon_thread(function: Callable[[], LocalBackend]) -> LocalBackend:
    """Await a function in a thread that does not keep the process alive when it is abandoned."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[LocalBackend] = loop.create_future()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            loop.call_soon_threadsafe(_set, future, None, error)
        else:
            loop.call_soon_threadsafe(_set, future, result, None)

    threading.Thread(target=run, name="csplade-load", daemon=True).start()
    return await future


def _set(
    future: asyncio.Future[LocalBackend],
    result: LocalBackend | None,
    error: BaseException | None,
) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    elif result is not None:
        future.set_result(result)


def _exit(code: int) -> None:
    """End the process at once, with what is logged written out."""
    sys.stdout.flush()
    logging.shutdown()
    os._exit(code)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
