"""Other csplade services that the explorer compares with: the settings name them.

A page may ask this server only, so this server asks the others. Their keys stay here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from ...client.connection import Connection, ServiceError
from ...core.errors import (
    CspladeError,
    DeadlineError,
    IncompatibleError,
    InputError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from ...engine.deadline import Deadline
from ...v1 import retrieval_pb2_grpc as rpc
from ..settings import Service
from ..telemetry import logs
from .transcode import Method, Rpc

RETRY_SECONDS = 1.0  # where a service does not say

ERRORS = {kind.code: kind for kind in (DeadlineError, IncompatibleError, InputError, NotFoundError)}


class OtherServices:
    """Ask other services over gRPC, by their names.

    Connections are made when they are first needed.

    Args:
        services: What the settings name.

    Raises:
        InputError: a file that cannot be read, or a key file without a key.
    """

    def __init__(self, services: Sequence[Service]) -> None:
        self._connections = {
            one.name: Connection(
                one.target,
                application=one.application,
                tls=one.tls,
                ca=one.ca,
                key=_key(one.name, one.key_file),
            )
            for one in services
        }
        self._channels: dict[str, grpc.aio.Channel] = {}

    @property
    def names(self) -> list[str]:
        """The names, in the order of the settings."""
        return list(self._connections)

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    def method(self, name: str, rpc: Rpc) -> Method:
        """Return the method of an rpc of a service.

        Raises:
            NotFoundError: the settings name no such service.
        """
        if name not in self._connections:
            raise NotFoundError(f"service: {name[:60]!r} is not one of http.services")

        async def method(message: Message, deadline: Deadline) -> Message:
            return await self._call(name, rpc, message, deadline)

        return method

    async def _call(self, name: str, which: Rpc, message: Message, deadline: Deadline) -> Message:
        connection = self._connections[name]
        if name not in self._channels:
            self._channels[name] = connection.asynchronous_channel()
        stub = rpc.RetrievalServiceStub(self._channels[name])
        call: Callable[..., Awaitable[Message]] = getattr(stub, which.name)
        metadata: Any = (*connection.metadata, ("x-request-id", logs.request_id.get()))
        try:
            return await call(message, timeout=deadline.remaining, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise _error(name, connection.error(error)) from error


def _error(name: str, error: ServiceError) -> CspladeError:
    """Return what the caller is told: the error of the service, which is named."""
    message = f"{name}: {error.details}"
    if error.code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return IncompatibleError(
            f"{name}: rejects the key of http.services: {error.details}; set its key_file"
        )
    if error.code == OverloadedError.code:
        return OverloadedError(message, error.retry_after or RETRY_SECONDS)
    if error.code in ERRORS:
        return ERRORS[error.code](message)
    return UnavailableError(message if error.code == "UNAVAILABLE" else f"{name}: {error}")


def _key(name: str, path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        words = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"http.services: {name}: key_file: {path}: {error}") from None
    if not words:
        raise InputError(f"http.services: {name}: key_file: {path} is empty; write the key into it")
    return words[0]
