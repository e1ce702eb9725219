"""What quantization costs and saves: encoder precision x impact precision, on one collection.

Each encoder precision is measured in a process of its own (:mod:`.quantize_worker`) and kept in a
work folder, so a run that was killed goes on with the next one. Each impact precision is then
scored exhaustively over the same vectors. The reference is the float32 encoder scored with float
weights: exact, and what overlap and cosine are counted against.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.beir import Dataset
from ..core.errors import IncompatibleError, InputError, UnavailableError
from ..core.files import write_aside
from ..core.vectors import MAX_DOCUMENT_IMPACT, MAX_QUERY_IMPACT, SparseBatch
from ..ingest.jsonl import joined_text, read_corpus
from ..model.checkpoint import presets
from .measures import measure
from .quantize_worker import Cost, Precision, Task, read

DEPTH = 10
FLOAT = "float"
PRECISIONS = (
    Precision("fp32", dtype="float32"),
    Precision("bf16", dtype="bfloat16"),
    *(
        Precision(quantization + (" + head" if head else ""), quantization, head=head)
        for quantization in ("int8", "nf4", "fp4")
        for head in (False, True)
    ),
)
SCALES = (0.005, 0.01, 0.02, 0.04)

Progress = Callable[[str, int, int], None]
"""Called with a precision's name, texts done and texts in all."""


@dataclass(frozen=True)
class Quality:
    """Rankings at one impact precision.

    Attributes:
        ndcg: nDCG@10.
        overlap: mean share of the reference's top 10 that is in this top 10.
        clipped: document impacts that were above the largest one.
    """

    ndcg: float
    overlap: float
    clipped: int


@dataclass(frozen=True)
class Row:
    """One encoder precision; without ``cost`` it could not be done, and ``reason`` says why.

    Attributes:
        cosine: mean over all documents and queries of the cosine with the float32 vector.
        qualities: impact precision -> quality.
    """

    precision: Precision
    cost: Cost | None = None
    cosine: float = 0.0
    qualities: dict[str, Quality] = dataclasses.field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class QuantizeReport:
    """All rows, and what they were measured with."""

    model: str
    fingerprint: str
    dataset: str
    documents: int
    corpus: int
    queries: int
    device: str
    threads: int | None
    rows: tuple[Row, ...]

    @property
    def impacts(self) -> tuple[str, ...]:
        """Names of the impact precisions, the reference first."""
        return next((tuple(row.qualities) for row in self.rows if row.qualities), ())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def run(
    model: str,
    dataset: Dataset,
    work: Path,
    *,
    device: str = "cpu",
    documents: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    precisions: tuple[Precision, ...] = PRECISIONS,
    progress: Progress | None = None,
) -> QuantizeReport:
    """Measure every precision that ``work`` does not hold already.

    Args:
        model: ``embedded``, a directory or a hub id.
        dataset: the collection.
        work: folder of what was measured so far; made if it is not there.
        device: ``cpu`` or ``cuda``.
        documents: size of the pool: all documents that are judged for a query, and others drawn by
            the seed; None takes all.
        threads: of torch on the CPU; None for all cores.
        seed: of the draw.
        precisions: of the encoder; the first is the reference.
        progress: told while a precision is measured.

    Raises:
        InputError: a pool smaller than the judged documents.
        IncompatibleError: ``work`` holds measurements of something else.
        UnavailableError: the reference cannot be measured here.
    """
    known = presets.read(model)
    ids, texts, corpus = _pool(dataset, documents, seed)
    settings = {
        "fingerprint": known.manifest.fingerprint,
        "dataset": f"{dataset.name}/{dataset.split}",
        "documents": len(ids),
        "seed": seed,
        "device": device,
        "threads": threads,
    }
    _claim(work, settings)
    task = Task(model, device, threads, precisions[0], texts, list(dataset.queries.values()))
    reasons = {
        precision.name: _measure(dataclasses.replace(task, precision=precision), work, progress)
        for precision in precisions
    }
    if reason := reasons[precisions[0].name]:
        raise UnavailableError(
            f"{precisions[0].name}, which the others are compared with, failed: {reason}"
        )
    reference: _Reference | None = None
    rows = []
    for precision in precisions:
        if reason := reasons[precision.name]:
            rows.append(Row(precision, reason=reason))
            continue
        cost, document_vectors, query_vectors = read(_place(work, precision))
        ranked = _rank_all(document_vectors, query_vectors, cost.query_scale)
        reference = reference or _Reference(document_vectors, query_vectors, ranked[FLOAT][0])
        rows.append(
            Row(
                precision,
                cost,
                reference.cosine(document_vectors, query_vectors),
                {
                    name: Quality(
                        measure(
                            dataset.qrels,
                            {
                                q: [ids[d] for d in top]
                                for q, top in zip(dataset.queries, tops, strict=True)
                            },
                        )["nDCG@10"],
                        reference.overlap(tops),
                        clipped,
                    )
                    for name, (tops, clipped) in ranked.items()
                },
            )
        )
    return QuantizeReport(
        model,
        known.manifest.fingerprint,
        str(settings["dataset"]),
        len(ids),
        corpus,
        len(dataset.queries),
        _device_name(device),
        threads,
        tuple(rows),
    )


@dataclass(frozen=True)
class _Reference:
    documents: SparseBatch
    queries: SparseBatch
    tops: list[NDArray[np.int64]]

    def cosine(self, documents: SparseBatch, queries: SparseBatch) -> float:
        pairs = [
            *zip(self.documents, documents, strict=True),
            *zip(self.queries, queries, strict=True),
        ]
        return float(np.mean([_cosine(one, other) for one, other in pairs]))

    def overlap(self, tops: list[NDArray[np.int64]]) -> float:
        return float(
            np.mean(
                [
                    len(np.intersect1d(one[:DEPTH], other[:DEPTH])) / len(one[:DEPTH])
                    for one, other in zip(self.tops, tops, strict=True)
                    if len(one)
                ]
            )
        )


def _pool(dataset: Dataset, documents: int | None, seed: int) -> tuple[list[str], list[str], int]:
    every = [(document.id, joined_text(document)) for _, document, _ in read_corpus(dataset.corpus)]
    if documents is None or documents >= len(every):
        return [one for one, _ in every], [text for _, text in every], len(every)
    judged = {document for judgments in dataset.qrels.values() for document in judgments}
    needed = [row for row, (one, _) in enumerate(every) if one in judged]
    if documents < len(needed):
        raise InputError(
            f"documents is {documents}, must be at least {len(needed)}, the judged ones of "
            f"{dataset.name}"
        )
    others = np.array([row for row, (one, _) in enumerate(every) if one not in judged])
    drawn = np.random.default_rng(seed).choice(others, documents - len(needed), replace=False)
    chosen = [every[row] for row in sorted([*needed, *drawn.tolist()])]
    return [one for one, _ in chosen], [text for _, text in chosen], len(every)


def _claim(work: Path, settings: dict[str, Any]) -> None:
    """Make the work folder, or see that it is of the same run."""
    work.mkdir(parents=True, exist_ok=True)
    note = work / "settings.json"
    if not note.exists():
        with write_aside(note) as file:
            json.dump(settings, file)
    before = json.loads(note.read_text(encoding="utf-8"))
    for key, value in settings.items():
        if before.get(key) != value:
            raise IncompatibleError(
                f"{work}: holds rows measured with {key} {before.get(key)}, now it is {value}; "
                "delete it to start again"
            )


def _place(work: Path, precision: Precision) -> Path:
    return work / precision.name.replace(" ", "")


def _measure(task: Task, work: Path, progress: Progress | None) -> str:
    """Run one worker unless its row is there; returns why it could not be done, or ""."""
    place, name = _place(work, task.precision), task.precision.name
    if place.with_suffix(".json").is_file():
        return ""
    # A work folder on a full disk, an interrupt: the worker goes down with this process, and its
    # row is measured again.
    with tempfile.TemporaryDirectory(dir=work) as folder:
        note = Path(folder) / "task.json"
        note.write_text(json.dumps(dataclasses.asdict(task)), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "csplade.evaluation.quantize_worker",
            str(note),
            str(place),
        ]
        with open(Path(folder) / "errors", "w+", encoding="utf-8") as errors:
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
            try:
                assert worker.stdout is not None
                for line in worker.stdout:
                    if progress is not None:
                        done, total = line.split()
                        progress(name, int(done), int(total))
                code = worker.wait()
            finally:
                worker.kill()
                worker.wait()
            errors.seek(0)
            said = [line for line in errors.read().splitlines() if line.strip()]
    if code == 0:
        return ""
    return (
        f"killed by signal {-code}; out of memory?"
        if code < 0
        else (said or [f"exit code {code}"])[-1]
    )


def _rank_all(
    documents: SparseBatch, queries: SparseBatch, query_scale: float
) -> dict[str, tuple[list[NDArray[np.int64]], int]]:
    """Impact precision -> top 10 of each query (rows of documents), and impacts clipped."""
    ranked = {FLOAT: (_rank(documents, documents.weights, queries, queries.weights), 0)}
    asked = queries.quantize(query_scale, MAX_QUERY_IMPACT).impacts
    largest = float(documents.weights.max(initial=1.0))
    settings = [(f"8 bits, {scale}", scale, MAX_DOCUMENT_IMPACT) for scale in SCALES]
    for name, scale, most in [*settings, ("4 bits, largest / 15", largest / 15, 15)]:
        impacts = documents.quantize(scale, most)
        ranked[name] = (_rank(documents, impacts.impacts, queries, asked), impacts.clipped)
    return ranked


def _rank(
    documents: SparseBatch,
    document_values: NDArray[Any],
    queries: SparseBatch,
    query_values: NDArray[Any],
) -> list[NDArray[np.int64]]:
    """Exhaustive top 10: integers in int64, floats in float64; score descending, then order of
    arrival.
    """
    kind = np.float64 if document_values.dtype.kind == "f" else np.int64
    size = int(max(documents.terms.max(initial=0), queries.terms.max(initial=0))) + 1
    table = np.zeros((size, len(queries)), dtype=kind)
    table[queries.terms, np.repeat(np.arange(len(queries)), np.diff(queries.indptr))] = query_values
    scores = np.zeros((len(queries), len(documents)), dtype=kind)
    for row, (start, end) in enumerate(zip(documents.indptr, documents.indptr[1:], strict=False)):
        scores[:, row] = document_values[start:end].astype(kind) @ table[documents.terms[start:end]]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    return [top[scores[query, top] > 0] for query, top in enumerate(order)]


def _cosine(
    one: tuple[NDArray[Any], NDArray[Any]], other: tuple[NDArray[Any], NDArray[Any]]
) -> float:
    _, left, right = np.intersect1d(one[0], other[0], assume_unique=True, return_indices=True)
    norm = float(np.linalg.norm(one[1]) * np.linalg.norm(other[1]))
    return (
        float(one[1][left] @ other[1][right]) / norm
        if norm
        else float(len(one[0]) == len(other[0]))
    )


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {len(os.sched_getaffinity(0))} cores"


def forget(work: Path) -> None:
    """Delete the work folder of a finished report."""
    shutil.rmtree(work)
