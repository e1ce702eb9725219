"""Admit requests of any transport: key, state, limits; metrics, trace, log line."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from ..core.errors import (
    CspladeError,
    InternalError,
    OverloadedError,
    StorageError,
    UnavailableError,
)
from ..engine.deadline import Deadline
from .auth import Keys, role_of
from .drain import Lifecycle
from .telemetry import logs
from .telemetry.metrics import Metrics
from .telemetry.tracing import Tracer

log = logging.getLogger(__name__)

MAX_COMPLAINT = 200  # characters
RETRY_SECONDS = 0.1  # for callers beyond the bound of requests in flight


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What a transport tells about a request.

    Attributes:
        method: Name of the rpc.
        metadata: Headers of the request, names in lower case.
        peer: Address of the caller.
        remaining: Seconds until the caller's deadline; None without one.
        request_id: The caller's, or a new one.
    """

    method: str
    metadata: Mapping[str, str | bytes]
    peer: str
    remaining: float | None
    request_id: str

    @classmethod
    def create(
        cls,
        method: str,
        metadata: Mapping[str, str | bytes],
        peer: str,
        remaining: float | None,
    ) -> RequestContext:
        """Make a context with the caller's request id if it is usable, else with a new one."""
        request_id = logs.take_or_make_id(metadata.get("x-request-id"))
        return cls(method, metadata, peer, remaining, request_id)


class Admission:
    """Admit requests, and record how they end.

    Attributes:
        lifecycle: State of the server.
        keys: API keys that callers need; None for none.

    Args:
        lifecycle: State of the server.
        metrics: Where requests are counted.
        keys: API keys that callers need; None for none.
        in_flight: Requests that may be in flight at once.
        timeout: Seconds that a request may take.
        log_requests: Whether each request gets a log line.
        tracer: Makes a span of each request; None for none.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        metrics: Metrics,
        keys: Keys | None,
        *,
        in_flight: int,
        timeout: float,
        log_requests: bool,
        tracer: Tracer | None = None,
    ) -> None:
        self.lifecycle = lifecycle
        self.keys = keys
        self._metrics, self._tracer = metrics, tracer
        self._limit, self._timeout, self._log_requests = in_flight, timeout, log_requests

    def check(self, method: str, metadata: Mapping[str, str | bytes]) -> None:
        """Raise the reason why a request of a method with these headers is not admitted.

        Cheap, and needs no message: a transport calls it before it reads one.

        Raises:
            KeyMissingError, KeyWrongError: a key is needed, one that has the method's role.
            UnavailableError: the server is loading or draining.
            OverloadedError: too many requests are in flight.
        """
        if self.keys is not None:
            self.keys.check(metadata.get("authorization"), role_of(method))
        self.lifecycle.check()
        self._check_room(1)

    @contextmanager
    def counted_as(self, queries: int) -> Iterator[None]:
        """Count a request, which is in flight, as so many of them.

        Raises:
            OverloadedError: too many requests are in flight.
        """
        self._check_room(queries - 1)
        with self.lifecycle.track(queries - 1):
            yield

    def _check_room(self, more: int) -> None:
        if (in_flight := self.lifecycle.in_flight) + more > self._limit:
            raise OverloadedError(
                f"limits.in_flight: {in_flight} requests are in flight and {more} more exceed "
                f"{self._limit}; retry after {RETRY_SECONDS} s",
                RETRY_SECONDS,
            )

    def deadline(self, remaining: float | None) -> Deadline:
        """Return the deadline of a request whose caller waits so many seconds, None for ever."""
        return Deadline.after(min(self._timeout, self._timeout if remaining is None else remaining))

    @contextmanager
    def request(self, context: RequestContext) -> Iterator[Deadline]:
        """Run a request: check it, count, trace and log it; yields its deadline.

        Raises:
            CspladeError: why the request was not admitted or failed. Whatever is not meant for the
                caller is logged and becomes an InternalError that names the request id.
        """
        logs.request_id.set(context.request_id)
        started, code, reason = time.perf_counter(), "OK", ""
        span = (
            nullcontext()
            if self._tracer is None
            else self._tracer.request(context.method, context.metadata, context.request_id)
        )
        caller = None if context.remaining is None else Deadline.after(context.remaining)
        with span as trace:
            try:
                self.check(context.method, context.metadata)
                with self.lifecycle.track():
                    yield self.deadline(context.remaining)
            except asyncio.CancelledError:
                # A transport cancels both when the caller leaves and when its deadline passes.
                passed = caller is not None and caller.expired
                code = "DEADLINE_EXCEEDED" if passed else "CANCELLED"
                raise
            except Exception as error:
                public = public_error(error, context.method, context.request_id)
                code, reason = public.code, complaint(public)
                raise public from error
            finally:
                if trace is not None:
                    trace.end_with(code, reason)
                seconds = time.perf_counter() - started
                self._metrics.answered(context.method, code, seconds)
                if self._log_requests:
                    fields: dict[str, Any] = {
                        "method": context.method,
                        "code": code,
                        "seconds": round(seconds, 6),
                        "peer": context.peer,
                    }
                    if reason:
                        fields["complaint"] = reason
                    # After the answer has left: a line takes longer than most of a request.
                    asyncio.get_running_loop().call_soon(_log, fields)


def public_error(error: Exception, what: str, request_id: str) -> CspladeError:
    """Return the error that the caller may see.

    Errors of storage, those whose code is INTERNAL, and all others, are logged and replaced: their
    text may name files.
    """
    if (
        isinstance(error, CspladeError)
        and not isinstance(error, StorageError)
        and error.code != InternalError.code
    ):
        return error
    if not isinstance(error, InternalError):
        log.error("%s failed", what, exc_info=error)
    explained = f"the server's log explains request id {request_id}"
    if isinstance(error, StorageError):
        return UnavailableError(
            f"storage: the index cannot be read or written now; retry later; {explained}"
        )
    return InternalError(f"internal error; {explained}")


def complaint(error: CspladeError) -> str:
    """Return the text of an error as one line of bounded length: it may repeat a caller's value."""
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_COMPLAINT else text[: MAX_COMPLAINT - 3] + "..."


def _log(fields: dict[str, Any]) -> None:
    log.info("request", extra=fields)
