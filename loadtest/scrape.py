"""Read the metrics of a server under load: its memory over time, and the growth of its counters."""

from __future__ import annotations

import re
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ..core.errors import UnavailableError

LINE = re.compile(r"^(?:ray_)?([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
WATCHED = ("process_resident_memory_bytes", "process_open_fds", "csplade_queue_depth")
TIMEOUT_SECONDS = 5.0  # of an endpoint

Sample = dict[str, float]


@dataclass(frozen=True)
class Reading:
    """The watched gauges, summed over the endpoints, some seconds after the start."""

    second: float
    values: Sample


class Scraper:
    """Reads at the start, at the end, and periodically in between. Use it as a context manager.

    Args:
        urls: metrics endpoints, one per process or node; with none, nothing is read.
        every: seconds between readings.

    Attributes:
        readings: of the watched gauges, in order.
        counted: growth of the reported counters, after the end.
    """

    def __init__(self, urls: Sequence[str], every: float = 1.0) -> None:
        self._urls, self._every = tuple(urls), every
        self.readings: list[Reading] = []
        self.counted: Sample = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="csplade-scrape", daemon=True)

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        if self._urls:
            self._before = self._read()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._urls:
            self._stop.set()
            self._thread.join()
            self.counted = growth(self._before, self._read())

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._read()
            except UnavailableError:
                continue  # it may be busy; the last reading must succeed

    def _read(self) -> Sample:
        values: Sample = defaultdict(float)
        for url in self._urls:
            try:
                with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
                    text = answer.read().decode()
            except (OSError, ValueError, urllib.error.URLError) as error:
                raise UnavailableError(
                    f"metrics {url}: {getattr(error, 'reason', error)}"
                ) from None
            for name, value in parse(text).items():
                values[name] += value
        watched = {name: values[name] for name in WATCHED if name in values}
        self.readings.append(Reading(time.monotonic() - self._started, watched))
        return values


def parse(text: str) -> Sample:
    """Parse a text exposition: values by name and ``method``, ``code``, ``stage`` or ``what``.

    Values that differ in other labels are added.

    >>> parse('csplade_stage_seconds_sum{stage="score",node="a"} 2.5')
    {'csplade_stage_seconds_sum{score}': 2.5}
    """
    values: Sample = defaultdict(float)
    for line in text.splitlines():
        found = LINE.match(line)
        if found is None or found[1].endswith("_bucket"):
            continue
        labels = dict(LABEL.findall(found[2] or ""))
        kept = ",".join(
            labels[name] for name in ("method", "code", "stage", "what") if name in labels
        )
        values[f"{found[1]}{{{kept}}}" if kept else found[1]] += float(found[3])
    return dict(values)


def growth(before: Sample, after: Sample) -> Sample:
    """Return answers by code, mean ms per stage, mean batch and CPU seconds between samples."""
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    counted: Sample = defaultdict(float)
    for name, value in grown.items():
        if name.startswith("csplade_requests_total{"):
            counted[f"answers {name[:-1].split(',')[-1]}"] += value
        if name.startswith("csplade_stage_seconds_sum{") and value:
            stage = name[len("csplade_stage_seconds_sum{") : -1]
            count = grown.get(f"csplade_stage_seconds_count{{{stage}}}", 0.0)
            counted[f"{stage} ms"] = 1e3 * value / count if count else 0.0
    if batches := grown.get("csplade_batch_queries_count", 0.0):
        counted["queries a batch"] = grown["csplade_batch_queries_sum"] / batches
    if (seconds := grown.get("process_cpu_seconds_total")) is not None:
        counted["CPU seconds"] = seconds
    return dict(counted)
