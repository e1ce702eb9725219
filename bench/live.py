"""Time writes to a live index as it grows, beside Qdrant Edge with every batch flushed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.document import Document
from ..core.machine import hardware
from ..core.vectors import ImpactBatch, SparseBatch, Vector
from ..index import BuildOptions, IndexBuilder, IndexWriter, Upsert
from .distribution import VOCABULARY
from .synthetic import DOCUMENT_SCALE, draw_vectors

WINDOW = 20  # batches that are timed at each size
CALLERS = 8
SINGLES = 25  # documents that each caller writes, one after the other

HEADINGS = ("documents", "csplade, documents/s", "Qdrant Edge, documents/s", "ratio")


@dataclass
class LiveReport:
    """Rates and latencies of writes, and of searches beside them.

    Attributes:
        rates: of each size: documents there, documents a second of csplade and of the peer, which
            is None where it is left out.
        fsync_ms: median time of an fsync of 4 KB in the same directory.
        single_ms: p50 and p99 of writing one document, by eight callers at once.
        idle_ms, busy_ms: p50 of a search alone, and while batches are written.
        tail_ms, compacted_ms: p50 of a search before and after compaction.
        machine: in one line.
    """

    rates: list[tuple[int, float, float | None]] = field(default_factory=list)
    fsync_ms: float = 0.0
    single_ms: tuple[float, float] = (0.0, 0.0)
    idle_ms: float = 0.0
    busy_ms: float = 0.0
    tail_ms: float = 0.0
    compacted_ms: float = 0.0
    machine: str = ""

    def rows(self) -> list[tuple[str, ...]]:
        """Return a row of each size."""
        return [
            (
                f"{size:,}",
                f"{ours:,.0f}",
                "" if theirs is None else f"{theirs:,.0f}",
                "" if theirs is None else f"{ours / theirs:.2f}",
            )
            for size, ours, theirs in self.rates
        ]

    def notes(self) -> list[str]:
        """Return the other figures in lines."""
        p50, p99 = self.single_ms
        return [
            f"one document, {CALLERS} callers: p50 {p50:.1f} ms, p99 {p99:.1f} ms; an fsync takes "
            f"{self.fsync_ms:.2f} ms",
            f"a search: p50 {self.idle_ms:.2f} ms alone, {self.busy_ms:.2f} ms during writes; "
            f"{self.tail_ms:.2f} ms with the tail, {self.compacted_ms:.2f} ms compacted",
            self.machine,
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        return dict(vars(self))


def run(
    directory: Path,
    sizes: Sequence[int],
    batch: int,
    mean_terms: float,
    queries: ImpactBatch,
    seed: int,
    *,
    peer: bool,
    progress: Callable[[str, int, int], None],
) -> LiveReport:
    """Grow an index, and the peer's, batch by batch; time the batches at each size.

    Args:
        directory: empty.
        sizes: documents, ascending.
        batch: documents of a batch.
        mean_terms: of a document.
        queries: to search with.
        seed: of the documents.
        peer: whether Qdrant Edge takes the same batches.
        progress: told after each batch.
    """
    options = BuildOptions(VOCABULARY, document_scale=DOCUMENT_SCALE)
    with IndexBuilder.create(directory / "index", options) as builder:
        builder.finish()
    points, other = _qdrant(directory / "qdrant") if peer else (None, None)
    rng, report, done = np.random.default_rng(seed), LiveReport(machine=hardware()), 0
    with IndexWriter.open(directory / "index") as writer:
        for size in sizes:
            ours: list[float] = []
            theirs: list[float] = []
            while done < size + WINDOW * batch:
                vectors = draw_vectors(rng, batch, mean_terms)
                spent = _timed(writer.upsert, _upserts(vectors, done))
                beside = other and points and _timed(other, points(done, vectors))
                if done >= size:
                    ours.append(spent)
                    theirs += [] if beside is None else [beside]
                done += batch
                progress("documents", done, sizes[-1] + WINDOW * batch)
            rate = batch * WINDOW / sum(theirs) if theirs else None
            report.rates.append((size, batch * WINDOW / sum(ours), rate))
        report.fsync_ms = _fsync_ms(directory / "probe")
        report.single_ms = _singles(writer, draw_vectors(rng, CALLERS * SINGLES, mean_terms), done)
        _searches(writer, queries, draw_vectors(rng, 1000, mean_terms), done, report)
    return report


def _upserts(vectors: SparseBatch, first: int) -> list[Upsert]:
    return [Upsert(Document(str(first + i), ""), row) for i, row in enumerate(vectors)]


def _timed(work: Callable[[Any], object], argument: object) -> float:
    started = time.perf_counter()
    work(argument)
    return time.perf_counter() - started


def _qdrant(
    path: Path,
) -> tuple[Callable[[int, SparseBatch], list[Any]], Callable[[list[Any]], object]]:
    """Return what makes points, and what stores them in a Qdrant shard and flushes it."""
    import qdrant_edge as qdrant

    path.mkdir()
    shard = qdrant.EdgeShard.create(
        str(path), qdrant.EdgeConfig(sparse_vectors={"terms": qdrant.EdgeSparseVectorParams()})
    )

    def points(first: int, vectors: SparseBatch) -> list[Any]:
        return [
            qdrant.Point(
                first + i, {"terms": qdrant.SparseVector(terms.tolist(), weights.tolist())}
            )
            for i, (terms, weights) in enumerate(vectors)
        ]

    def store(batch: list[Any]) -> None:
        shard.update(qdrant.UpdateOperation.upsert_points(batch))
        shard.flush()

    return points, store


def _fsync_ms(path: Path) -> float:
    taken = []
    with open(path, "wb", buffering=0) as file:
        for _ in range(30):
            file.write(bytes(4096))
            taken.append(_timed(os.fsync, file.fileno()))
    return float(np.median(taken)) * 1e3


def _singles(writer: IndexWriter, vectors: SparseBatch, first: int) -> tuple[float, float]:
    """Return p50 and p99 in ms of one-document writes by several callers at once."""
    taken: list[float] = []

    def write(caller: int) -> None:
        for i in range(caller, len(vectors), CALLERS):
            item = Upsert(Document(str(first + i), "one"), vectors.row(i))
            taken.append(_timed(writer.upsert, [item]))

    callers = [threading.Thread(target=write, args=(one,)) for one in range(CALLERS)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    p50, p99 = np.percentile(taken, [50, 99]) * 1e3
    return float(p50), float(p99)


def _searches(
    writer: IndexWriter,
    queries: ImpactBatch,
    vectors: SparseBatch,
    first: int,
    report: LiveReport,
) -> None:
    """Time searches alone, beside writes at 1,000 documents a second, and after compaction."""

    def p50() -> float:
        taken = [
            _timed(lambda row: writer.index.search(ImpactBatch.join([row]), 10), row)
            for _ in range(5)
            for row in queries
        ]
        return float(np.median(taken)) * 1e3

    p50()
    report.idle_ms = report.tail_ms = p50()
    stop = threading.Event()

    def write() -> None:
        rows: list[Vector] = list(vectors)
        place = 0
        while not stop.is_set():
            items = [
                Upsert(Document(str(first + (place + i) % first), "again"), rows[i % len(rows)])
                for i in range(100)
            ]
            place += 100
            began = time.perf_counter()
            writer.upsert(items)
            stop.wait(max(0.0, 0.1 - (time.perf_counter() - began)))

    thread = threading.Thread(target=write)
    thread.start()
    report.busy_ms = p50()
    stop.set()
    thread.join()
    writer.compact()
    report.compacted_ms = p50()
