"""Export metrics through Ray: the agent of each node serves those of its replicas.

Recording one value through Ray takes a tenth of a millisecond, so values are added up here and
exported every few seconds. A histogram is exported as Prometheus reads it: gauges of its cumulative
buckets, its sum and its count. Ray adds the prefix ``ray_`` and labels of its own (node, worker,
session); the scrape configuration removes the prefix, so that dashboards and rules use one set of
names. An agent drops a gauge that is not set again, so every export sets all of them.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, Generic, Protocol, TypeVar

import ray
from prometheus_client.utils import floatToGoString
from ray.util import metrics

EXPORT_SECONDS = 5.0  # between two exports

exporting = threading.Lock()
"""Held during an export. Ray ends a process that uses its metrics while or after it is shut down,
so code that shuts Ray down in such a process holds this lock."""

Tags = dict[str, str]


class _Value(Protocol):
    def export(self) -> None:
        """Hand the recorded values to Ray."""


V = TypeVar("V", bound=_Value)


class _Labelled(Generic[V]):
    """A metric with the interface of prometheus_client: one value for each set of labels.

    Args:
        make: Makes the value for some labels.
        labels: Names of the labels.
    """

    def __init__(self, make: Callable[[Tags], V], labels: tuple[str, ...]) -> None:
        self._make, self._names = make, labels
        self._values: dict[tuple[str, ...], V] = {}
        self._lock = threading.Lock()

    def labels(self, *values: str) -> V:
        with self._lock:
            if values not in self._values:
                self._values[values] = self._make(dict(zip(self._names, values, strict=True)))
            return self._values[values]

    def __getattr__(self, name: str) -> Any:
        """Return ``inc``, ``set`` or ``observe`` of a metric without labels."""
        return getattr(self.labels(), name)

    def export(self) -> None:
        for value in tuple(self._values.values()):
            value.export()


class _Count:
    def __init__(
        self, metric: metrics.Counter, tags: Tags, function: Callable[[], float] | None = None
    ) -> None:
        self._metric, self._tags, self._function = metric, tags, function
        self._total = self._exported = 0.0
        self._lock = threading.Lock()

    def inc(self, amount: float = 1.0) -> None:
        with self._lock:
            self._total += amount

    def export(self) -> None:
        total = self._total if self._function is None else self._function()
        if total > self._exported:
            self._metric.inc(total - self._exported, self._tags)
            self._exported = total


class _Level:
    def __init__(
        self, metric: metrics.Gauge, tags: Tags, function: Callable[[], float] | None = None
    ) -> None:
        self._metric, self._tags, self._function = metric, tags, function
        self._latest: float | None = None

    def set(self, value: float) -> None:
        self._latest = value

    def export(self) -> None:
        value = self._latest if self._function is None else self._function()
        if value is not None:
            self._metric.set(value, self._tags)


class _Distribution:
    def __init__(
        self,
        bounds: tuple[float, ...],
        bucket: metrics.Gauge,
        sums: metrics.Gauge,
        counts: metrics.Gauge,
        tags: Tags,
    ) -> None:
        self._bounds, self._tags = bounds, tags
        self._bucket, self._sum_gauge, self._count_gauge = bucket, sums, counts
        self._buckets = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        with self._lock:
            self._buckets[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def export(self) -> None:
        with self._lock:
            running, total = list(accumulate(self._buckets)), self._sum
        for bound, count in zip((*self._bounds, float("inf")), running, strict=True):
            self._bucket.set(count, {**self._tags, "le": floatToGoString(bound)})
        self._sum_gauge.set(total, self._tags)
        self._count_gauge.set(running[-1], self._tags)


class _Info:
    """A gauge that is 1, with facts as labels."""

    def __init__(self, name: str, text: str, gauge: Callable[..., _Labelled[_Level]]) -> None:
        self._name, self._text, self._gauge = name, text, gauge
        self._last: _Level | None = None

    def info(self, facts: Mapping[str, str]) -> None:
        if self._last is not None:
            self._last.set(0.0)
        self._last = self._gauge(f"{self._name}_info", self._text, *facts).labels(*facts.values())
        self._last.set(1.0)


class RayInstruments:
    """Make metrics that Ray exports, see :class:`csplade.service.telemetry.metrics.Instruments`."""

    def __init__(self) -> None:
        self._made: list[_Labelled[Any]] = []
        threading.Thread(target=self._export_forever, name="csplade-metrics", daemon=True).start()

    def counter(self, name: str, text: str, *labels: str) -> _Labelled[_Count]:
        """Return a counter."""
        metric = metrics.Counter(name, text, tag_keys=labels)
        return self._known(_Labelled(lambda tags: _Count(metric, tags), labels))

    def gauge(self, name: str, text: str, *labels: str) -> _Labelled[_Level]:
        """Return a gauge."""
        metric = metrics.Gauge(name, text, tag_keys=labels)
        return self._known(_Labelled(lambda tags: _Level(metric, tags), labels))

    def gauge_of(self, name: str, text: str, function: Callable[[], float]) -> _Labelled[_Level]:
        """Return a gauge whose function is called at each export."""
        metric = metrics.Gauge(name, text)
        gauge = self._known(_Labelled(lambda tags: _Level(metric, tags, function), ()))
        gauge.labels()
        return gauge

    def counter_of(self, name: str, text: str, function: Callable[[], float]) -> _Labelled[_Count]:
        """Return a counter whose function is called at each export."""
        metric = metrics.Counter(name, text)
        counter = self._known(_Labelled(lambda tags: _Count(metric, tags, function), ()))
        counter.labels()
        return counter

    def histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> _Labelled[_Distribution]:
        """Return a histogram."""
        bucket = metrics.Gauge(f"{name}_bucket", text, tag_keys=(*labels, "le"))
        sums, counts = (
            metrics.Gauge(f"{name}_{part}", text, tag_keys=labels) for part in ("sum", "count")
        )
        return self._known(
            _Labelled(lambda tags: _Distribution(buckets, bucket, sums, counts, tags), labels)
        )

    def info(self, name: str, text: str) -> _Info:
        """Return a metric of facts: labels of a gauge that is 1."""
        return _Info(name, text, self.gauge)

    def _known(self, metric: _Labelled[V]) -> _Labelled[V]:
        self._made.append(metric)
        return metric

    def _export_forever(self) -> None:
        while True:
            time.sleep(EXPORT_SECONDS)
            with exporting:
                if ray.is_initialized():
                    for metric in tuple(self._made):
                        metric.export()
