"""OpenTelemetry spans: one per request, and one below it per stage. Off without an endpoint.

Stages are measured as durations, so their spans are made when the answer is ready: end to end in
the order of the stages, from the start of the request. Time between stages comes at the end.
Without ``tracing.endpoint`` OpenTelemetry is not even imported.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import grpc

from ... import __version__
from ...core.errors import InputError
from ...core.stages import STAGES
from ...v1 import retrieval_pb2 as pb
from ..names import service_of
from ..settings import Tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

EXPORT_SECONDS = (
    5  # that one export may take; what waits meanwhile is bounded, and its loss is logged
)

# What OpenTelemetry's conventions call an error of a server; the other codes are the caller's.
FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}

_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def tracer(settings: Tracing) -> Tracer | None:
    """Return the tracer that the settings describe; None without an endpoint.

    Raises:
        InputError: OpenTelemetry is not installed.
    """
    if settings.endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        raise InputError(
            f"tracing.endpoint is set, but {error.name} is not installed: pip install "
            "'csplade[tracing]'"
        ) from None
    return Tracer(OTLPSpanExporter(settings.endpoint, timeout=EXPORT_SECONDS), settings.ratio)


class Tracer:
    """Make spans and export them in a thread.

    Args:
        exporter: where they go.
        ratio: share of the requests to trace, of those whose caller has not decided it (W3C
            ``traceparent``).
    """

    def __init__(self, exporter: SpanExporter, ratio: float) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create({"service.name": "csplade", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._spans = self._provider.get_tracer("csplade", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, method: str, metadata: Mapping[str, Any], request_id: str) -> Iterator[Trace]:
        """The span of an rpc; it is the current one inside the block.

        Args:
            method: name of the rpc.
            metadata: the caller's, which may hold ``traceparent`` and ``tracestate``.
            request_id: that the log speaks of.
        """
        from opentelemetry.trace import SpanKind

        service = service_of(method)
        facts = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        span = self._spans.start_span(
            f"{service}/{method}",
            self._propagator.extract(metadata),
            SpanKind.SERVER,
            facts | {"csplade.request_id": request_id},
        )
        with _entered(Trace(self._spans, span)) as trace:
            yield trace

    def close(self) -> None:
        """Export the remaining spans. Blocks for seconds if the collector does not answer."""
        self._provider.shutdown()


class Trace:
    """An open span, and those below it.

    Args:
        spans: OpenTelemetry's tracer.
        span: its span.
    """

    def __init__(self, spans: Any, span: Any) -> None:
        self._spans, self._span = spans, span
        self._started = time.time_ns()

    def below(self, name: str) -> Trace:
        """Start a span below this one."""
        return Trace(self._spans, self._spans.start_span(name, self._context()))

    def stages(self, timings: pb.Timings) -> None:
        """Add a span for each stage that took any time; ``timings`` in nanoseconds."""
        if not self._span.is_recording():
            return
        at = self._started
        for stage in STAGES:
            if nanoseconds := getattr(timings, stage):
                self._spans.start_span(stage, self._context(), start_time=at).end(at + nanoseconds)
                at += nanoseconds

    def end_with(self, code: str, complaint: str = "") -> None:
        """Record the name of the status code, and for a fault what went wrong."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
        if code in FAULTS:
            self._span.set_status(StatusCode.ERROR, complaint or code)

    def end(self) -> None:
        """End the span now."""
        self._span.end()

    def _context(self) -> Any:
        from opentelemetry.trace import set_span_in_context

        return set_span_in_context(self._span)


def stages(timings: pb.Timings) -> None:
    """Add the spans of the stages to the current request, if it is traced."""
    if (trace := _current.get()) is not None:
        trace.stages(timings)


@contextmanager
def part(name: str) -> Iterator[Trace | None]:
    """A span of a part of a request, the current one inside the block; None where nothing is
    traced.
    """
    if (trace := _current.get()) is None:
        yield None
        return
    with _entered(trace.below(name)) as inner:
        yield inner


@contextmanager
def _entered(trace: Trace) -> Iterator[Trace]:
    token = _current.set(trace)
    try:
        yield trace
    finally:
        _current.reset(token)
        trace.end()
