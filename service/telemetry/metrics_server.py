"""The HTTP endpoint of Prometheus metrics: few threads, short timeouts, a key if one is set."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from ...core.errors import CspladeError

SCRAPES = 8  # at once; further connections are closed
IDLE_SECONDS = 5.0  # that a scraper may be silent


class MetricsServer:
    """Serves ``/metrics`` in threads of its own.

    Args:
        registry: What is served.
        host: Address to listen at.
        port: 0 takes a free one.
        check: Raises CspladeError if the value of the Authorization header is not accepted.

    Attributes:
        port: The port that it listens at.

    Raises:
        OSError: the port is taken.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int,
        check: Callable[[str | None], None] | None = None,
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = IDLE_SECONDS

            def do_GET(self) -> None:
                """Answer a scrape."""
                if self.path.partition("?")[0] not in ("/", "/metrics"):
                    self.send_error(404)
                    return
                if check is not None:
                    try:
                        check(self.headers.get("Authorization"))
                    except CspladeError:
                        self.send_error(401)
                        return
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                body = encode(registry)
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing: the log is of requests to the service."""

        self._server = _BoundedServer((host, port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="csplade-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening. Blocks."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _BoundedServer(HTTPServer):
    """Handles connections in a bounded number of threads."""

    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._pool = ThreadPoolExecutor(SCRAPES, "csplade-scrape")
        self._slots = threading.Semaphore(SCRAPES)
        super().__init__(address, handler)  # closes the server if the port is taken

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand a connection to a thread, or close it if all are busy."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._pool.submit(self._handle, request, client_address)

    def server_close(self) -> None:
        """Close the socket; connections that are silent end by their timeout."""
        super().server_close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _handle(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:  # the scraper left, or was silent for too long
            pass
        finally:
            self.shutdown_request(request)
            self._slots.release()
