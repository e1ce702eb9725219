"""Write an index for other engines: Anserini's JSON vectors, CIFF, or Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from ..core.document import Document
from ..core.files import write_aside
from ..core.vectors import ImpactBatch
from ..index import Index
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
    if form == "ciff":
        description = f"csplade impacts of {index.manifest.step:.9g}"

        def vectors(stage: str) -> Iterator[tuple[list[str], ImpactBatch]]:
            for place in _places(index, stage, progress):
                yield index.ids(*place), index.vectors(*place)

        return write_ciff(out, vectors, name or str, description)
    documents = (
        (index.fetch(*place), index.vectors(*place))
        for place in _places(index, "documents", progress)
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
    index: Index, stage: str, progress: Progress | None
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield shards and ordinals of the live documents, in order of arrival over all shards."""
    given = {number: index.manifest.shards[number].documents for number in index.shards}
    deleted = {number: shard.store.deleted() for number, shard in index.shards.items()}
    total = sum(given.values()) - sum(map(len, deleted.values()))
    done, step = 0, -(-CHUNK // len(given))
    for first in range(0, max(given.values()), step):
        places = sorted(
            (ordinal, number)
            for number, documents in given.items()
            for ordinal in np.setdiff1d(
                np.arange(first, min(first + step, documents)), deleted[number]
            ).tolist()
        )
        if places:
            ordinals, shards = zip(*places, strict=True)
            yield list(shards), list(ordinals)
            done += len(places)
        if progress:
            progress(stage, done, total)
