"""What stands before every rpc of csplade: request id, key, readiness, error map, metrics, log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Literal

import grpc
import grpc.aio

from ..core.errors import UnavailableError
from .auth import Keys
from .grpc.status import status_of
from .telemetry import logs
from .telemetry.metrics import Metrics
from .telemetry.tracing import Tracer

log = logging.getLogger(__name__)


class Boundary:
    """Every rpc runs inside :meth:`request`.

    Args:
        metrics: where requests are counted.
        keys: that callers need, None for none.
        log_requests: whether each request gets a line.
        tracer: makes a span of each request, None for none.

    Attributes:
        state: ``loading``, ``ready`` or ``draining``; only ``ready`` lets requests in.
        idle: set while no request is inside.
    """

    def __init__(
        self,
        metrics: Metrics,
        keys: Keys | None,
        *,
        log_requests: bool,
        tracer: Tracer | None = None,
    ) -> None:
        self._metrics, self._keys, self._log_requests, self._tracer = (
            metrics,
            keys,
            log_requests,
            tracer,
        )
        self.state: Literal["loading", "ready", "draining"] = "loading"
        self._inside = 0
        self.idle = asyncio.Event()
        self.idle.set()

    @asynccontextmanager
    async def request(self, method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
        """Let a request in or refuse it; make a status of what it raises; count and log it."""
        metadata = dict(context.invocation_metadata() or ())
        request_id = logs.take_or_make_id(metadata.get("x-request-id"))
        logs.request_id.set(request_id)
        trailing = ("x-request-id", request_id)
        context.set_trailing_metadata((trailing,))
        started = time.perf_counter()
        code, complaint = grpc.StatusCode.OK, ""
        self._inside += 1
        self.idle.clear()
        tracing = (
            nullcontext()
            if self._tracer is None
            else self._tracer.request(method, metadata, request_id)
        )
        with tracing as trace:
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
                if trace is not None:
                    trace.code(code, complaint)
                self._inside -= 1
                if not self._inside:
                    self.idle.set()
                seconds = time.perf_counter() - started
                self._metrics.answered(method, code.name, seconds)
                if self._log_requests:
                    facts = {"method": method, "code": code.name, "seconds": round(seconds, 6)}
                    facts |= {"peer": context.peer()} | (
                        {"complaint": complaint} if complaint else {}
                    )
                    # Once the answer is on its way: a line takes longer than most of what came
                    # before.
                    asyncio.get_running_loop().call_soon(_log, facts)

    def _admit(self, metadata: dict[str, Any]) -> None:
        if self._keys is not None:
            self._keys.check(metadata.get("authorization"))
        if self.state == "loading":
            raise UnavailableError("the server is still loading, try again soon")
        if self.state == "draining":
            raise UnavailableError("the server is shutting down, try another one")


def _log(facts: dict[str, Any]) -> None:
    log.info("request", extra=facts)
