"""Build the parts of a service from its settings; every transport and Ray use the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..core.errors import InputError
from ..engine.batching import BatchOptions
from ..engine.collection import Collection, OpenOptions
from ..engine.local import LocalBackend
from ..kernels.runtime.memory import GIB, WorkingMemory
from .admission import Admission
from .auth import Keys
from .drain import Lifecycle
from .settings import Settings
from .telemetry.metrics import Metrics
from .telemetry.tracing import Tracer

Opener = Callable[[Settings], Collection]


def open_collection(settings: Settings, shards: Sequence[int] | None = None) -> Collection:
    """Open the collection that the settings describe, all shards or some.

    Raises:
        InputError: no index is named; and what :meth:`Collection.open` raises.
    """
    if settings.index is None:
        raise InputError("index: not set; name its directory as the argument or in the settings")
    return Collection.open(
        settings.index,
        OpenOptions(
            model=settings.model.path,
            with_encoder=settings.model.enabled,
            device=settings.model.device,
            quantization=settings.model.quantization,
            query_encoder=settings.model.query_encoder,
            encoder_threads=settings.model.threads,
            index_threads=settings.scoring.threads,
            index_device=settings.scoring.device,
            shards=shards,
            filter_bytes=settings.scoring.filter_bytes,
            memory=WorkingMemory(round(settings.gpu.working_gib * GIB)),
            writable=settings.writable,
        ),
    )


def backend(collection: Collection, settings: Settings, metrics: Metrics) -> LocalBackend:
    """Return the backend of an open collection, which is closed with it."""
    batching = settings.batching
    options = BatchOptions(
        queue=batching.queue,
        tokens=batching.tokens,
        background_tokens=batching.background_tokens,
        tasks=batching.queries,
        threads=settings.server.fetch_threads,
    )
    return LocalBackend(collection, options, metrics)


def ready_backend(collection: Collection, settings: Settings, metrics: Metrics) -> LocalBackend:
    """Return the backend of a collection that is ready for requests; record what it holds."""
    collection.prepare(recorded=settings.gpu.graphs)
    metrics.model(collection.info)
    metrics.index(collection.index.manifest)
    if collection.writer is not None:
        writer = collection.writer
        metrics.writer(lambda: writer.stats)
    return backend(collection, settings, metrics)


def admission(
    settings: Settings, lifecycle: Lifecycle, metrics: Metrics, tracer: Tracer | None
) -> Admission:
    """Return the admission that the settings describe.

    Raises:
        InputError: the file of keys cannot be used.
    """
    file = settings.security.keys_file
    return Admission(
        lifecycle,
        metrics,
        None if file is None else Keys(file),
        in_flight=settings.limits.in_flight,
        timeout=settings.limits.timeout_seconds,
        log_requests=settings.logging.requests,
        tracer=tracer,
    )
