"""One encoder precision, measured in a process of its own, so that its peak of memory is its own.

    python -m csplade.evaluation.quantize_worker TASK.json OUT

``TASK.json`` is a :class:`Task`. Progress goes to stdout, a line ``DONE TOTAL`` each; ``OUT.npz``
gets the vectors and ``OUT.json`` a :class:`Cost`, written last. An error meant for a user goes to
stderr as one line, with exit code 1.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CspladeError
from ..core.files import write_aside
from ..core.machine import peak_bytes, reset_peak_bytes
from ..core.vectors import SparseBatch

CHUNK = 64


@dataclass(frozen=True)
class Precision:
    """How the encoder's weights are kept.

    Attributes:
        name: for people.
        quantization: of the body's linear layers.
        dtype: of unquantized weights and activations; "" takes the device's quick one.
        head: the LM head is packed as well.
    """

    name: str
    quantization: str = "none"
    dtype: str = ""
    head: bool = False


@dataclass(frozen=True)
class Task:
    """What a worker does: encode these texts with this model, at this precision, on this device."""

    model: str
    device: str
    threads: int | None
    precision: Precision
    documents: list[str]
    queries: list[str]


@dataclass(frozen=True)
class Cost:
    """What encoding took.

    Attributes:
        documents_per_second: all documents in batches.
        query_milliseconds: median over the queries, one at a time, text to vector.
        weight_bytes: of the loaded network.
        peak_bytes: of the device's memory on CUDA, else of the process's resident memory; from
            after loading on.
        cut: document and query tokens and terms that caps cut.
    """

    documents_per_second: float
    query_milliseconds: float
    weight_bytes: int
    peak_bytes: int
    cut: dict[str, int]


def work(task: Task, out: Path) -> Cost:
    """Load, encode, measure and write; see the module."""
    import torch

    from ..model import Encoder

    encoder = Encoder.from_pretrained(
        task.model,
        device=task.device,
        quantization=task.precision.quantization,
        quantize_head=task.precision.head,
        dtype=getattr(torch, task.precision.dtype) if task.precision.dtype else None,
        threads=task.threads,
        self_test=False,  # how far the vectors are off is what is measured
    )
    encoder.encode(task.documents[:1], "document")
    gc.collect()
    reset_peak_bytes(encoder.device)
    total, parts, cut = len(task.documents) + len(task.queries), [], {"tokens": 0, "terms": 0}
    started = time.perf_counter()
    # Texts of like length together, as one call over all of them would do; the order is put back
    # below.
    order = np.argsort([len(text) for text in task.documents], kind="stable")
    for first in range(0, len(order), CHUNK):
        encoded = encoder.encode(
            [task.documents[row] for row in order[first : first + CHUNK]], "document"
        )
        parts.append(encoded.vectors)
        cut["tokens"] += int(encoded.dropped_tokens.sum())
        cut["terms"] += int(encoded.dropped_terms.sum())
        print(min(first + CHUNK, len(order)), total, flush=True)
    spent = time.perf_counter() - started
    documents = SparseBatch.concatenate(parts).take(np.argsort(order))
    waits, asked = [], []
    for query in task.queries:
        started = time.perf_counter()
        encoded = encoder.encode([query], "query")
        waits.append(time.perf_counter() - started)
        asked.append(encoded.vectors)
        cut["tokens"] += int(encoded.dropped_tokens.sum())
        cut["terms"] += int(encoded.dropped_terms.sum())
        print(len(order) + len(waits), total, flush=True)
    queries = SparseBatch.concatenate(asked)
    cost = Cost(
        documents_per_second=len(order) / spent,
        query_milliseconds=median(waits) * 1e3,
        weight_bytes=encoder.weight_bytes,
        peak_bytes=peak_bytes(encoder.device),
        cut=cut,
    )
    with write_aside(out.with_suffix(".npz"), "wb") as file:
        arrays: dict[str, Any] = {**_arrays("document", documents), **_arrays("query", queries)}
        np.savez(file, **arrays)
    with write_aside(out.with_suffix(".json")) as text:
        json.dump(dataclasses.asdict(cost), text)
    return cost


def read(out: Path) -> tuple[Cost, SparseBatch, SparseBatch]:
    """What a worker wrote: cost, document vectors, query vectors."""
    cost = Cost(**json.loads(out.with_suffix(".json").read_text(encoding="utf-8")))
    with np.load(out.with_suffix(".npz")) as arrays:
        documents, queries = (
            SparseBatch(*(arrays[f"{kind}_{part}"] for part in ("indptr", "terms", "weights")))
            for kind in ("document", "query")
        )
    return cost, documents, queries


def _arrays(kind: str, vectors: SparseBatch) -> dict[str, NDArray[Any]]:
    return {f"{kind}_{part}": getattr(vectors, part) for part in ("indptr", "terms", "weights")}


def main() -> None:
    """Run the task that the command line names."""
    values = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    precision = Precision(**values.pop("precision"))
    try:
        work(Task(precision=precision, **values), Path(sys.argv[2]))
    except CspladeError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
