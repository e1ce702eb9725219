"""Check key, state and limits of a call before its message is read."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from ...core.errors import CspladeError
from ..admission import Admission, RequestContext
from ..names import SERVICE_NAMES
from .status import status_of

log = logging.getLogger(__name__)


class AdmissionInterceptor(grpc.aio.ServerInterceptor):
    """Rejects calls of our services that are not admitted.

    A rejected call is answered by a handler for streams, because gRPC reads the message of any
    other call before it starts the handler: megabytes from callers without a key.

    Args:
        admission: Decides, and records the rejection; other services (health, reflection) pass.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Return the handler of the call, or one that rejects it."""
        if (method := own_method(details)) is None:
            return await continuation(details)
        try:
            self._admission.check(method, dict(details.invocation_metadata or ()))
        except CspladeError:
            return rejection(self._admission, method)
        return tolerant(await continuation(details))


def own_method(details: grpc.HandlerCallDetails) -> str | None:
    """Return the name of the method that is called; None if it is not of one of our services."""
    service, _, method = details.method.removeprefix("/").partition("/")
    return method if service in SERVICE_NAMES else None


class Malformed:
    """Stands for a message that cannot be parsed."""


def tolerant(handler: grpc.RpcMethodHandler | None) -> grpc.RpcMethodHandler | None:
    """Return a handler that gets :class:`Malformed` in place of bytes that cannot be parsed.

    gRPC would end it with UNKNOWN or INTERNAL and log a traceback, without metric or log line.
    """
    if handler is None or handler.request_deserializer is None:
        return handler

    def parse(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except Exception:
            return Malformed()

    return handler._replace(request_deserializer=parse)


def rejection(admission: Admission, method: str) -> grpc.RpcMethodHandler:
    """Return a handler that admits a call once more, for metrics and log, and ends it."""

    async def reject(_: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        metadata = dict(context.invocation_metadata() or ())
        request = RequestContext.create(method, metadata, context.peer(), context.time_remaining())
        trailing = ("x-request-id", request.request_id)
        try:
            with admission.request(request):
                pass
        except CspladeError as error:
            status = status_of(error)
            await context.abort(status.code, status.message, (trailing, *status.metadata))
        # Admitted after all: the state changed in between, and the message has not been read.
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server was busy; retry", (trailing,))
        yield b""  # makes this a generator, which is what a handler for streams is

    return grpc.stream_stream_rpc_method_handler(reject)
