"""What stands before every rpc of csplade: request id, key, readiness, error map, metrics, log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import grpc
import grpc.aio

from ..errors import UnavailableError
from . import logs
from .errors import status_of
from .metrics import Metrics
from .security import Keys

log = logging.getLogger(__name__)

OWN = "/csplade."  # health and reflection pass untouched


class Boundary(grpc.aio.ServerInterceptor):
    """Wraps the handlers of csplade's services; others are let through.

    Attributes:
        state: ``loading``, ``ready`` or ``draining``; only ``ready`` lets requests in.
        idle: set while no request is inside.
    """

    def __init__(self, metrics: Metrics, keys: Keys | None, *, log_requests: bool) -> None:
        self._metrics, self._keys, self._log_requests = metrics, keys, log_requests
        self.state: Literal["loading", "ready", "draining"] = "loading"
        self._inside = 0
        self.idle = asyncio.Event()
        self.idle.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The handler of an rpc, wrapped."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(OWN):
            return handler
        method = handler_call_details.method.rpartition("/")[2]
        metadata = dict(handler_call_details.invocation_metadata or ())
        stream = handler.request_streaming
        inner = handler.stream_stream if stream else handler.unary_unary

        async def wrapped(request: Any, context: grpc.aio.ServicerContext) -> Any:
            async with self._request(method, metadata, context):
                return await inner(request, context)

        make = grpc.stream_stream_rpc_method_handler if stream else grpc.unary_unary_rpc_method_handler
        return make(wrapped, handler.request_deserializer, handler.response_serializer)

    @asynccontextmanager
    async def _request(
        self, method: str, metadata: dict[str, Any], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[None]:
        request_id = logs.take_or_make_id(metadata.get("x-request-id"))
        logs.request_id.set(request_id)
        trailing = ("x-request-id", request_id)
        context.set_trailing_metadata((trailing,))
        started = time.perf_counter()
        code, complaint = grpc.StatusCode.OK, ""
        self._inside += 1
        self.idle.clear()
        try:
            self._admit(metadata)
            yield
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            status = status_of(error, request_id)
            code, complaint = status.code, status.message
            if code is grpc.StatusCode.INTERNAL:
                log.exception("%s failed", method)
            await context.abort(code, status.message, (trailing, *status.metadata))
        finally:
            self._inside -= 1
            if not self._inside:
                self.idle.set()
            seconds = time.perf_counter() - started
            self._metrics.answered(method, code.name, seconds)
            if self._log_requests:
                facts = {
                    "method": method,
                    "code": code.name,
                    "seconds": round(seconds, 6),
                    "peer": context.peer(),
                }
                log.info("request", extra=facts | ({"complaint": complaint} if complaint else {}))

    def _admit(self, metadata: dict[str, Any]) -> None:
        if self._keys is not None:
            self._keys.check(metadata.get("authorization"))
        if self.state == "loading":
            raise UnavailableError("the server is still loading, try again soon")
        if self.state == "draining":
            raise UnavailableError("the server is shutting down, try another one")
