"""The metrics of csplade through Ray: every node's agent exports them for the replicas that live there.

Ray puts ``ray_`` before each name and labels of its own (node, worker, session) beside ours; the scrape
configuration takes the prefix off again, so that dashboards and rules know one set of names. An agent forgets a
gauge that is not set again, so all of them are, every few seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.util import metrics

EVERY = 5.0  # seconds between settings of a gauge


class _Labelled:
    """A metric of Ray behind the interface of prometheus_client."""

    def __init__(self, metric: Any, labels: tuple[str, ...]) -> None:
        self._metric, self._labels = metric, labels
        self._bound: dict[tuple[str, ...], _Bound] = {}
        self._plain = _Bound(metric, None)

    def labels(self, *values: str) -> _Bound:
        bound = self._bound.get(values)
        if bound is None:
            bound = self._bound[values] = _Bound(self._metric, dict(zip(self._labels, values, strict=True)))
        return bound

    def set_again(self) -> None:
        """Set a gauge, under all labels it has had, to what it was set to last."""
        for bound in (self._plain, *tuple(self._bound.values())):
            bound.set_again()

    def inc(self, amount: float = 1.0) -> None:
        self._plain.inc(amount)

    def set(self, value: float) -> None:
        self._plain.set(value)

    def observe(self, value: float) -> None:
        self._plain.observe(value)


class _Bound:
    """A metric of Ray with its labels given."""

    def __init__(self, metric: Any, tags: dict[str, str] | None) -> None:
        self._metric, self._tags = metric, tags
        self.latest: float | None = None  # of a gauge

    def inc(self, amount: float = 1.0) -> None:
        self._metric.inc(amount, self._tags)

    def set(self, value: float) -> None:
        self.latest = value
        self._metric.set(value, self._tags)

    def set_again(self) -> None:
        if self.latest is not None:
            self._metric.set(self.latest, self._tags)

    def observe(self, value: float) -> None:
        self._metric.observe(float(value), self._tags)


class _Info:
    """A gauge that is 1, with facts as labels."""

    def __init__(self, name: str, text: str, gauge: Callable[..., _Labelled]) -> None:
        self._name, self._text, self._gauge = name, text, gauge
        self._last: _Bound | None = None

    def info(self, facts: Mapping[str, str]) -> None:
        if self._last is not None:
            self._last.set(0.0)
        self._last = self._gauge(f"{self._name}_info", self._text, *facts).labels(*facts.values())
        self._last.set(1.0)


class RayInstruments:
    """Makes metrics that Ray exports; see :class:`~csplade.service.metrics.Instruments`."""

    def __init__(self) -> None:
        self._gauges: list[tuple[_Labelled, Callable[[], float] | None]] = []
        threading.Thread(target=self._refresh, name="csplade-gauges", daemon=True).start()

    def counter(self, name: str, text: str, *labels: str) -> _Labelled:
        """A counter."""
        return _Labelled(metrics.Counter(name, text, tag_keys=labels), labels)

    def gauge(self, name: str, text: str, *labels: str) -> _Labelled:
        """A gauge."""
        gauge = _Labelled(metrics.Gauge(name, text, tag_keys=labels), labels)
        self._gauges.append((gauge, None))
        return gauge

    def gauge_of(self, name: str, text: str, function: Callable[[], float]) -> _Labelled:
        """A gauge that asks the function every five seconds."""
        gauge = _Labelled(metrics.Gauge(name, text), ())
        gauge.set(function())
        self._gauges.append((gauge, function))
        return gauge

    def histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> _Labelled:
        """A histogram."""
        return _Labelled(metrics.Histogram(name, text, boundaries=list(buckets), tag_keys=labels), labels)

    def info(self, name: str, text: str) -> _Info:
        """Facts as labels of a gauge that is 1."""
        return _Info(name, text, self.gauge)

    def _refresh(self) -> None:
        while True:
            time.sleep(EVERY)
            # Ray ends a process that touches its metrics after it was shut down there.
            if not ray.is_initialized():
                continue
            for gauge, function in tuple(self._gauges):
                if function is not None:
                    gauge.set(function())
                gauge.set_again()
