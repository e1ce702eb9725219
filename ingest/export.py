"""Write an index for other engines: Anserini's JSON vectors, CIFF, or Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..core.document import Document
from ..core.files import write_aside
from ..core.vectors import ImpactBatch
from ..index import Index, Snapshot
from .ciff import write_ciff
from .parquet import write_parquet

CHUNK = 4096  # documents read together

Format = Literal["jsonl", "ciff", "parquet"]
FORMATS: dict[str, Format] = {".jsonl": "jsonl", ".ciff": "ciff", ".parquet": "parquet"}
"""What the names of files end in."""
Progress = Callable[[str, int, int], None]
"""Called with the stage ("terms" or "documents"), documents done and documents in all."""
Documents = Iterable[tuple[list[Document], ImpactBatch]]


def export_index(
    index: Index,
    out: Path,
    form: Format,
    name: Callable[[int], str] | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the live documents of an index, in order of arrival; return how many there are.

    Weights are impacts, whole numbers, as Anserini and CIFF expect them: ``weight = impact *
    document_scale``. Memory holds a chunk of documents at a time.

    Args:
        index: open.
        out: the file to write, whole or not at all.
        form: ``jsonl`` and ``parquet`` have id, title, contents, metadata and vector of each
            document; ``ciff`` has ids and postings, and reads the vectors twice.
        name: gives the token string of a term, no two the same; None writes ids.
        progress: told after each chunk.

    Raises:
        InputError: the impacts of a document sum to more than CIFF can hold.
        UnavailableError: ``parquet`` needs pyarrow.
    """
    now = index.snapshot
    if form == "ciff":
        description = f"csplade impacts of {now.manifest.step:.9g}"

        def vectors(stage: str) -> Iterator[tuple[list[str], ImpactBatch]]:
            for place in _places(now, stage, progress):
                yield now.ids(*place), now.vectors(*place)

        return write_ciff(out, vectors, name or str, description)
    documents = (
        (now.fetch(*place), now.vectors(*place)) for place in _places(now, "documents", progress)
    )
    if form == "jsonl":
        return _write_jsonl(out, documents, name or str)
    return write_parquet(out, documents, name)


def _write_jsonl(out: Path, documents: Documents, name: Callable[[int], str]) -> int:
    count = 0
    with write_aside(out) as file:
        for chunk, impacts in documents:
            for document, (terms, values) in zip(chunk, impacts, strict=True):
                words = map(name, terms.tolist())
                line = {
                    "id": document.id,
                    "contents": document.text,
                    "vector": dict(zip(words, values.tolist(), strict=True)),
                }
                if document.title:
                    line["title"] = document.title
                if document.metadata:
                    line["metadata"] = document.metadata
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += len(chunk)
    return count


def _places(
    index: Snapshot, stage: str, progress: Progress | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield shards and ordinals of the live documents, in order of arrival over all shards."""
    total, shards = index.count(), index.manifest.shard_count
    done, after = 0, -1
    while len(page := index.arrivals(after, CHUNK)):
        yield page % shards, page // shards
        done, after = done + len(page), int(page[-1])
        if progress:
            progress(stage, done, total)
