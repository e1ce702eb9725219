"""Declare every metric: seconds and plain counts, few labels of bounded values."""

from __future__ import annotations

import sys
from collections import Counter as Counted
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from ...core.results import Cut, WriteResult, WriteStatus
from ...core.stages import STAGES
from ...engine.backend import CollectionInfo
from ...index import IndexManifest, WriterStats
from .logs import dropped_lines

SECONDS = tuple(round(15e-6 * 1.5**step, 9) for step in range(35))  # 15 us to 14.6 s
COUNTS = tuple(2.0**step for step in range(13))  # 1 to 4,096
POSTINGS = tuple(4.0**step for step in range(2, 16))  # 16 to 10^9

disable_created_metrics()


class Instruments(Protocol):
    """Makes metrics that work like the classes of prometheus_client."""

    def counter(self, name: str, text: str, *labels: str) -> Any:
        """Return a counter: ``inc``, after ``labels`` if there are any."""

    def gauge(self, name: str, text: str, *labels: str) -> Any:
        """Return a gauge: ``set``."""

    def gauge_of(self, name: str, text: str, function: Callable[[], float]) -> Any:
        """Return a gauge of what the function returns."""

    def counter_of(self, name: str, text: str, function: Callable[[], float]) -> Any:
        """Return a counter of what the function returns, which never falls."""

    def histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Any:
        """Return a histogram: ``observe``."""

    def info(self, name: str, text: str) -> Any:
        """Return a metric of facts: ``info`` takes a mapping of label to value."""


class PrometheusInstruments:
    """Instruments in a registry of their own, beside those of the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """Return a counter."""
        return Counter(name, text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Return a gauge."""
        return Gauge(name, text, labels, registry=self.registry)

    def gauge_of(self, name: str, text: str, function: Callable[[], float]) -> Gauge:
        """Return a gauge whose function is called at each scrape."""
        gauge = self.gauge(name, text)
        gauge.set_function(function)
        return gauge

    def counter_of(self, name: str, text: str, function: Callable[[], float]) -> Collector:
        """Return a counter whose function is called at each scrape."""
        counter = _CounterOf(name, text, function)
        self.registry.register(counter)
        return counter

    def histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        """Return a histogram."""
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def info(self, name: str, text: str) -> Info:
        """Return an info metric; its name ends with ``_info``."""
        return Info(name, text, registry=self.registry)


class _CounterOf(Collector):
    def __init__(self, name: str, text: str, function: Callable[[], float]) -> None:
        self._name, self._text, self._function = name, text, function

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the counter as it is now."""
        yield CounterMetricFamily(self._name, self._text, self._function())


class Metrics:
    """All metrics of one server.

    Args:
        instruments: what they are made of; by default Prometheus metrics in ``registry``.
    """

    def __init__(self, instruments: Instruments | None = None) -> None:
        if instruments is None:
            instruments = PrometheusInstruments()
            self.registry = instruments.registry
        make = instruments

        def counter(name: str, text: str, *labels: str) -> Counter:
            return make.counter(f"csplade_{name}", text, *labels)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return make.gauge(f"csplade_{name}", text, *labels)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return make.histogram(f"csplade_{name}", text, buckets, *labels)

        self.requests = counter("requests_total", "Requests answered.", "method", "code")
        self.request_seconds = histogram(
            "request_seconds", "Time from a request's arrival to its answer.", SECONDS, "method"
        )
        self.stage_seconds = histogram(
            "stage_seconds",
            "Time in a stage: queue and fetch per request, the others per batch.",
            SECONDS,
            "stage",
        )
        self.batch_queries = histogram("batch_queries", "Queries and texts in a batch.", COUNTS)
        self.batch_tokens = histogram(
            "batch_tokens", "Tokens in a batch that has texts.", (*COUNTS, 8192.0, 16384.0)
        )
        self.queue_depth = gauge(
            "queue_depth",
            "Queries and texts that wait for the worker; in the ingress, for a message.",
        )
        self.query_terms = histogram("query_terms", "Terms of a query as scored.", COUNTS)
        self.postings_scored = histogram("postings_scored", "Postings read for a query.", POSTINGS)
        self.filter_hits = counter(
            "filter_cache_hits_total", "Evaluated filters that were found in the cache."
        )
        self.filter_misses = counter("filter_cache_misses_total", "Filters that were evaluated.")
        self.filter_bytes = gauge("filter_cache_bytes", "Bytes of the cache of filters.")
        self.truncated = counter(
            "truncated_total", "Tokens, terms and impacts that a cap cut.", "what"
        )
        self.index_documents = gauge("index_documents", "Documents in a shard.", "shard")
        self.index_postings = gauge("index_postings", "Postings in a shard.", "shard")
        self.index_bytes = gauge("index_bytes", "Bytes of a shard's segments.", "shard")
        self.index_generation = gauge("index_generation", "Generation of a shard.", "shard")
        self._writer: Callable[[], WriterStats] | None = None

        def of_writer(field: str) -> Callable[[], float]:
            return lambda: 0.0 if self._writer is None else float(getattr(self._writer(), field))

        self.of_writer = [
            make.gauge_of(f"csplade_{name}", text, of_writer(field))
            for name, field, text in (
                ("generation", "generation", "Generation of the last commit; 0: read only."),
                ("documents", "documents", "Documents that are not deleted; 0: read only."),
                ("deleted_documents", "deleted", "Deleted documents that still take room."),
                ("tail_documents", "tail_documents", "Documents that no segment file holds yet."),
            )
        ]
        self.compactions = make.counter_of(
            "csplade_compactions_total", "Compactions of segments.", of_writer("compactions")
        )
        self.writes = counter(
            "writes_total", "Documents in writes, by what became of them.", "status"
        )
        self.commit_seconds = histogram(
            "commit_seconds", "Time of a write from its commit's queue to the disk.", SECONDS
        )
        self.model_info = make.info("csplade_model", "The loaded encoder.")
        self.verify_mismatches = counter(
            "verify_mismatches_total", "Ranks that Verify found to differ."
        )
        self.log_dropped = make.gauge_of(
            "csplade_log_dropped_lines",
            "Log lines that were dropped since the start.",
            dropped_lines,
        )
        self.device_memory = make.gauge_of(
            "csplade_device_memory_bytes",
            "Accelerator memory in use by this process.",
            _device_memory,
        )
        self.device_memory_limit = make.gauge_of(
            "csplade_device_memory_limit_bytes",
            "All memory of that accelerator.",
            _device_memory_limit,
        )
        self.filter_bytes.set(0)
        # Finding the metric of a label takes longer than recording a value: each is found once.
        self._stages = {stage: self.stage_seconds.labels(stage) for stage in STAGES}
        self._cuts = {what: self.truncated.labels(what) for what in ("tokens", "terms", "impacts")}
        self._answered: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        for status in get_args(WriteStatus):
            self.writes.labels(status)

    def answered(self, method: str, code: str, seconds: float) -> None:
        """Record one answered request."""
        found = self._answered.get((method, code))
        if found is None:
            found = self.requests.labels(method, code), self.request_seconds.labels(method)
            self._answered[method, code] = found
        count, histogram = found
        count.inc()
        histogram.observe(seconds)

    def batch_answered(self, codes: Mapping[str, int]) -> None:
        """Record the answered queries of a batch: how many ended with which code."""
        for code, count in codes.items():
            self.requests.labels("SearchBatchQuery", code).inc(count)

    def model(self, info: CollectionInfo) -> None:
        """Record the encoder of a collection, if it has one."""
        if (encoder := info.encoder) is not None:
            self.model_info.info(
                {
                    "name": encoder.name,
                    "fingerprint": encoder.fingerprint,
                    "device": encoder.device,
                    "query_encoder": encoder.query_encoder,
                }
            )

    def queued(self, depth: int) -> None:
        """Record the number of queued tasks."""
        self.queue_depth.set(depth)

    def batch(self, tasks: int, tokens: int) -> None:
        """Record a batch."""
        self.batch_queries.observe(tasks)
        if tokens:
            self.batch_tokens.observe(tokens)

    def ranked(self, terms: int, postings: int) -> None:
        """Record a ranked query."""
        self.query_terms.observe(terms)
        self.postings_scored.observe(postings)

    def filtered(self, hits: int, misses: int, nbytes: int) -> None:
        """Record look-ups of evaluated filters, and the bytes of all that are kept."""
        self.filter_hits.inc(hits)
        self.filter_misses.inc(misses)
        self.filter_bytes.set(nbytes)

    def index(self, manifest: IndexManifest) -> None:
        """Record what the index holds, shard by shard."""
        for shard in manifest.shards:
            label = str(shard.shard)
            self.index_documents.labels(label).set(shard.documents)
            self.index_postings.labels(label).set(shard.postings)
            self.index_bytes.labels(label).set(shard.bytes)
            self.index_generation.labels(label).set(shard.generation)

    def writer(self, stats: Callable[[], WriterStats]) -> None:
        """Record from now on what the writer of the index says about itself."""
        self._writer = stats

    def committed(
        self, results: Sequence[WriteResult], seconds: float, index: IndexManifest
    ) -> None:
        """Record a write."""
        for status, count in Counted(one.status for one in results).items():
            self.writes.labels(status).inc(count)
        self.commit_seconds.observe(seconds)
        self.index(index)

    def stages(self, timings: Mapping[str, int]) -> None:
        """Record stage times in nanoseconds; a stage of 0 did not happen."""
        for stage, nanoseconds in timings.items():
            if nanoseconds:
                self._stages[stage].observe(nanoseconds * 1e-9)

    def cut(self, cut: Cut) -> None:
        """Record what caps removed."""
        for what, count in (("tokens", cut.tokens), ("terms", cut.terms), ("impacts", cut.impacts)):
            if count:
                self._cuts[what].inc(count)


def _cuda() -> Any | None:
    """Return torch.cuda if torch is loaded and there is a GPU."""
    torch = sys.modules.get("torch")
    return None if torch is None or not torch.cuda.is_available() else torch.cuda


def _device_memory() -> float:
    """Return the bytes that torch holds on the GPU; 0 without one."""
    cuda = _cuda()
    return 0.0 if cuda is None else float(cuda.memory_reserved())


def _device_memory_limit() -> float:
    """Return the bytes of the GPU; 0 without one."""
    cuda = _cuda()
    return (
        0.0
        if cuda is None
        else float(cuda.get_device_properties(cuda.current_device()).total_memory)
    )
