"""What quantization costs and saves: encoder precision x impact precision, on one collection.

Each encoder precision is measured in a process of its own (:mod:`.quantize_worker`) and kept in a
work folder, so a run that was killed goes on with the next one. Each impact precision is then
scored exhaustively over the same vectors (:mod:`.quantize_ranking`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.beir import Dataset
from ..core.corpus import read_corpus
from ..core.errors import InputError, UnavailableError
from ..core.machine import hardware
from ..core.resume import SETTINGS_FILE, open_work
from ..model.checkpoint import presets
from .measures import measure
from .quantize_ranking import FLOAT, Reference, rank_all
from .quantize_worker import Cost, Precision, Task, read

PRECISIONS = (
    Precision("fp32", dtype="float32"),
    Precision("bf16", dtype="bfloat16"),
    *(
        Precision(quantization + (" + head" if head else ""), quantization, head=head)
        for quantization in ("int8", "nf4", "fp4")
        for head in (False, True)
    ),
)

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
        InputError: a pool smaller than the judged documents, or a ``work`` that no report made.
        IncompatibleError: ``work`` holds measurements with another setting, model or data.
        UnavailableError: the reference cannot be measured here.
    """
    known = presets.read(model)
    ids, texts, corpus = _pool(dataset, documents, seed)
    settings = {
        "fingerprint": known.manifest.fingerprint,
        "dataset": f"{dataset.name}/{dataset.split}",
        "documents": len(ids),
        "data": _digest([ids, texts, dataset.queries, dataset.qrels]),
        "seed": seed,
        "device": device,
        "threads": threads,
    }
    open_work(work, settings)
    task = Task(model, device, threads, precisions[0], texts, list(dataset.queries.values()))
    reasons = {
        precision.name: _measure(dataclasses.replace(task, precision=precision), work, progress)
        for precision in precisions
    }
    if reason := reasons[precisions[0].name]:
        raise UnavailableError(
            f"{precisions[0].name}, which the others are compared with, failed: {reason}"
        )
    reference: Reference | None = None
    rows = []
    for precision in precisions:
        if reason := reasons[precision.name]:
            rows.append(Row(precision, reason=reason))
            continue
        cost, document_vectors, query_vectors = read(_place(work, precision))
        ranked = rank_all(document_vectors, query_vectors)
        reference = reference or Reference(document_vectors, query_vectors, ranked[FLOAT][0])
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
        hardware(device),
        threads,
        tuple(rows),
    )


def _pool(dataset: Dataset, documents: int | None, seed: int) -> tuple[list[str], list[str], int]:
    every = [(document.id, document.full_text) for document in read_corpus(dataset.corpus)]
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


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def forget(work: Path) -> None:
    """Delete what a finished report kept; files that it did not write stay, and their folder."""
    for precision in PRECISIONS:
        for suffix in (".npz", ".json"):
            _place(work, precision).with_suffix(suffix).unlink(missing_ok=True)
    (work / SETTINGS_FILE).unlink()
    if not any(work.iterdir()):
        work.rmdir()
