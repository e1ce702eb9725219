"""The HTTP server of one process, on the event loop of its gRPC server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from ...core.errors import UnavailableError
from ..settings import Settings

log = logging.getLogger(__name__)

BACKLOG = 2048  # connections that are not accepted yet
CLOSE_SECONDS = 1  # for responses that are still being sent when the server stops


class HttpServer:
    """Listens, and serves an application until it is stopped.

    Args:
        settings: All settings.
        app: The application.

    Attributes:
        address: ``host:port`` that it listens at, once started.
    """

    def __init__(self, settings: Settings, app: ASGIApp) -> None:
        self._settings = settings
        security = settings.security
        authorities = security.client_ca
        self._server = _Server(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=CLOSE_SECONDS,
                ssl_certfile=security.tls_certificate,
                ssl_keyfile=security.tls_key,
                ssl_ca_certs=None if authorities is None else str(authorities),
                ssl_cert_reqs=ssl.CERT_NONE if authorities is None else ssl.CERT_REQUIRED,
            )
        )
        self.address = ""

    def start(self) -> None:
        """Listen, and serve on the running event loop.

        Raises:
            UnavailableError: the port is taken.
        """
        host, port = self._settings.http.host, self._settings.http.port
        try:
            listener = socket.create_server(
                (host, port),
                family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                backlog=BACKLOG,
            )
        except OSError as error:
            raise UnavailableError(
                f"http.host, http.port: cannot listen at {host}:{port}: {error.strerror}; "
                "choose another"
            ) from None
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{listener.getsockname()[1]}"
        self._serving = asyncio.create_task(self._server.serve([listener]))

    async def stop(self) -> None:
        """Close the connections; responses in flight have a second."""
        self._server.should_exit = True
        await self._serving


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield
