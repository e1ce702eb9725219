"""The filter benchmark: searches with cached filters beside the same ones without, in turns.

Every filter was used before: what is made of it beside the searches is there.

Scattered filters hold for documents all over the index; filters by arrival hold for the last ones
that came, as those of recent dates do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import CspladeError
from ..core.filters import Filter, Range
from ..core.machine import hardware
from ..core.vectors import ImpactBatch
from ..index import Index, Mask
from . import distribution, synthetic

SHARES = (1.0, 0.9, 0.5, 0.1, 0.01, 0.001)
LEVELS = 1000  # of the scattered field
ROUNDS = 9
HEADINGS = ["filter", "share", "ratio", "p50 ms", "p99 ms", "evaluated in ms", "hits/query"]


@dataclass(frozen=True)
class FilterTime:
    """Searches with one filter.

    Attributes:
        name: "none", "scattered" or "by arrival".
        share: of the documents that it holds for.
        ratio: time of a query divided by that without a filter just before it, median.
        milliseconds, p99: time of a query, median and 99th percentile.
        evaluation: milliseconds of the first search, which evaluates the filter, beyond
            ``milliseconds``.
        matched: documents that a query matches inside the filter, mean.
    """

    name: str
    share: float
    ratio: float
    milliseconds: float
    p99: float
    evaluation: float
    matched: float


@dataclass(frozen=True)
class FilterReport:
    """What was run, and on what machine."""

    collection: str
    query_set: str
    hardware: str
    k: int
    threads: int
    filters: tuple[FilterTime, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)

    def rows(self) -> list[list[str]]:
        """Return a row of text per filter."""
        return [
            [
                one.name,
                f"{one.share:.1%}",
                f"{one.ratio:.2f}",
                f"{one.milliseconds:.3f}",
                f"{one.p99:.3f}",
                f"{one.evaluation:.2f}",
                f"{one.matched:,.0f}",
            ]
            for one in self.filters
        ]

    def notes(self) -> list[str]:
        """Return what a reader needs to know beside the table."""
        return [
            self.collection,
            f"{self.query_set}; top {self.k}",
            f"{self.hardware}, {self.threads} threads; medians of {ROUNDS} rounds",
        ]


def run(
    directory: Path,
    documents: int,
    mean_terms: float,
    queries: ImpactBatch,
    query_set: str,
    k: int,
    threads: int,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> FilterReport:
    """Build a synthetic collection with two fields, and time every filter on it.

    Raises:
        CspladeError: a filtered answer differs from that of a mask of the same documents.
    """
    scattered = np.random.default_rng(seed).permutation(documents) % LEVELS
    synthetic.build(
        directory,
        documents,
        mean_terms,
        seed,
        progress,
        fields={"scattered": "integer", "arrival": "integer"},
        metadata=lambda i: {"scattered": int(scattered[i]), "arrival": i},
    )
    cases: list[tuple[str, float, Filter | None, np.ndarray[Any, Any] | None]] = [
        ("none", 1.0, None, None)
    ]
    for share in SHARES:
        bound, first = round(share * LEVELS), round((1 - share) * documents)
        cases += [
            ("scattered", share, _range("scattered", lt=bound), scattered < bound),
            ("by arrival", share, _range("arrival", gte=first), np.arange(documents) >= first),
        ]
    rows = [ImpactBatch.join([row]) for row in queries]
    with Index.open(directory, threads=threads) as index:
        first_times = [_check(index, rows, k, filter, held) for _, _, filter, held in cases]
        index.filters.settle()
        times = np.empty((len(cases), ROUNDS, len(rows)))
        for turn in range(ROUNDS):
            for number, row in enumerate(rows):
                _time(index, row, k, None)  # the query's postings come into the caches
                for place, (_, _, filter, _) in enumerate(cases):
                    times[place, turn, number] = _time(index, row, k, filter)[0]
            progress("rounds", turn + 1, ROUNDS)
        ratios = np.median(times / times[0], axis=(1, 2))
        medians = np.median(times, axis=1)  # of each query
        measured = tuple(
            FilterTime(
                name,
                share,
                float(ratios[place]),
                float(np.median(medians[place])),
                float(np.quantile(medians[place], 0.99)),
                max(0.0, first_times[place] - float(medians[place, 0])) if filter else 0.0,
                float(np.mean([_time(index, row, k, filter)[1] for row in rows])),
            )
            for place, (name, share, filter, _) in enumerate(cases)
        )
    collection = distribution.describe(documents, mean_terms, seed)
    return FilterReport(collection, query_set, hardware(), k, threads, measured)


def _range(field: str, **bounds: int) -> Filter:
    return Filter(must=(Range(field, **bounds),))


def _time(index: Index, row: ImpactBatch, k: int, filter: Filter | None) -> tuple[float, int]:
    """Return the milliseconds of a search, and the matches."""
    started = time.perf_counter()
    result = index.search(row, k, None if filter is None else index.mask(filter))
    return (time.perf_counter() - started) * 1e3, int(result.matched[0])


def _check(
    index: Index,
    rows: Sequence[ImpactBatch],
    k: int,
    filter: Filter | None,
    held: np.ndarray[Any, Any] | None,
) -> float:
    """Compare the answers with those of a mask; return the milliseconds of the first search."""
    first, _ = _time(index, rows[0], k, filter)
    mask = None if held is None else Mask({0: held})
    for row in rows:
        found = index.search(row, k, None if filter is None else index.mask(filter))
        truth = index.search(row, k, mask)
        if not (
            np.array_equal(found.ordinals, truth.ordinals)
            and np.array_equal(found.scores, truth.scores)
            and np.array_equal(found.matched, truth.matched)
        ):
            raise CspladeError(f"filter {filter}: its answers differ from those of a mask")
    return first
