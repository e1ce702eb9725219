"""What both clients share: where to connect, with which credentials, and how calls are bounded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from ..core.errors import CspladeError, InputError

PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")

# Messages have no bound of the client's own: the server knows and says its bounds.
UNBOUNDED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class ServiceError(CspladeError):
    """What the service answered instead of a result.

    Attributes:
        code: Name of the gRPC status code, for example ``"INVALID_ARGUMENT"``.
        details: The service's own words.
        request_id: The id under which the service's log speaks of the request; "" if unknown.
        retry_after: Seconds to wait before the next attempt; None if that does not help.
    """

    def __init__(
        self, code: str, details: str, request_id: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(f"{code}: {details}" + (f" (request {request_id})" if request_id else ""))
        self.code, self.details = code, details
        self.request_id, self.retry_after = request_id, retry_after


class Connection:
    """The options of a client.

    Args:
        target: ``host:port``.
        key: API key, sent as a bearer token.
        tls: Whether to use TLS; implied by any of the following.
        ca: PEM file of the authorities to trust instead of the system's.
        certificate: PEM file of the client's certificate chain, for mutual TLS.
        private_key: PEM file of its key.
        server_name: Name to expect in the server's certificate, if it is not the target's.
        timeout: Seconds that a call may take unless it says otherwise; None for no limit.
        application: Name of the application, where several run on one Ray cluster.

    Raises:
        InputError: a timeout that is not > 0, or a file that cannot be read.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        key: str | None = None,
        tls: bool = False,
        ca: Path | str | None = None,
        certificate: Path | str | None = None,
        private_key: Path | str | None = None,
        server_name: str | None = None,
        timeout: float | None = 60.0,
        application: str | None = None,
    ) -> None:
        self.target = target
        self.default_timeout = check_timeout(timeout)
        self.options: list[tuple[str, Any]] = [*UNBOUNDED]
        if is_loopback(target):
            self.options.append(("grpc.enable_http_proxy", 0))  # no proxy reaches our loopback
        if server_name is not None:
            self.options.append(("grpc.ssl_target_name_override", server_name))
        self.credentials: grpc.ChannelCredentials | None = None
        if tls or any(one is not None for one in (ca, certificate, private_key, server_name)):
            pems = [_read("ca", ca), _read("private_key", private_key)]
            pems.append(_read("certificate", certificate))
            self.credentials = grpc.ssl_channel_credentials(*pems)
        self.metadata: tuple[tuple[str, str], ...] = ()
        if key is not None:
            self.metadata += (("authorization", f"Bearer {key}"),)
        if application is not None:
            self.metadata += (("application", application),)

    def channel(self) -> grpc.Channel:
        """Open a blocking channel."""
        if self.credentials is None:
            return grpc.insecure_channel(self.target, self.options)
        return grpc.secure_channel(self.target, self.credentials, self.options)

    def asynchronous_channel(self) -> grpc.aio.Channel:
        """Open a channel of asyncio."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.target, self.options)
        return grpc.aio.secure_channel(self.target, self.credentials, self.options)

    def timeout(self, seconds: float | None) -> float | None:
        """Return the timeout of a call: its own, else the client's."""
        return self.default_timeout if seconds is None else check_timeout(seconds)

    def error(self, error: grpc.RpcError) -> ServiceError:
        """Return the error for what grpcio raised."""
        trailing = dict(error.trailing_metadata() or ())
        after = trailing.get("grpc-retry-pushback-ms")
        details = error.details() or ""
        proxy = next((name for name in PROXY_VARIABLES if os.environ.get(name)), None)
        if error.code() is grpc.StatusCode.UNAVAILABLE and proxy and not is_loopback(self.target):
            details += f" (through the proxy of {proxy}={os.environ[proxy]})"
        return ServiceError(
            error.code().name,
            details,
            trailing.get("x-request-id", ""),
            None if after is None else int(after) / 1000,
        )


def is_loopback(target: str) -> bool:
    """Whether a target is on this machine."""
    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].strip("[]") or target
    return host in ("localhost", "::1") or host.startswith("127.")


def check_timeout(seconds: float | None) -> float | None:
    """Return a timeout in seconds, or None for no limit.

    Raises:
        InputError: it is not > 0.
    """
    if seconds is not None and not seconds > 0:
        raise InputError(f"timeout: {seconds} is not allowed; > 0 seconds, or None for no limit")
    return seconds


def _read(name: str, path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{name}: {path}: {error.strerror}") from None
