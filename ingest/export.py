"""Write an index for other engines: Anserini's JSON vectors, or CIFF."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..core.document import Document
from ..core.files import write_aside
from ..core.vectors import ImpactBatch
from ..index import Index
from .ciff import write_ciff

CHUNK = 1024  # documents read together

Format = Literal["jsonl", "ciff"]
Progress = Callable[[int, int], None]
"""Called with documents done and documents in all."""


def export_index(
    index: Index,
    out: Path,
    form: Format,
    name: Callable[[int], str],
    progress: Progress | None = None,
) -> int:
    """Write the live documents of an index, in order of arrival; returns how many.

    Weights are impacts, whole numbers, as Anserini and CIFF expect them: ``weight = impact *
    document_scale``.

    Args:
        index: open.
        out: the file to write, whole or not at all.
        form: ``jsonl`` has id, contents, title, metadata and vector a line; ``ciff`` has ids and
            postings alone, and is held in memory.
        name: gives the string of a term; no two have the same.
        progress: told after each chunk.
    """
    chunks = _chunks(index, progress)
    if form == "jsonl":
        count = 0
        with write_aside(out) as file:
            for documents, impacts in chunks:
                for document, (terms, values) in zip(documents, impacts, strict=True):
                    file.write(_json_line(document, list(map(name, terms.tolist())), values) + "\n")
                count += len(documents)
        return count
    ids, batches = [], []
    for documents, impacts in chunks:
        ids += [document.id for document in documents]
        batches += list(impacts)
    step = index.manifest.step
    write_ciff(out, name, ids, ImpactBatch.join(batches, step), f"csplade impacts of {step:.9g}")
    return len(ids)


def _json_line(document: Document, terms: list[str], values: NDArray[np.int32]) -> str:
    line = {
        "id": document.id,
        "contents": document.text,
        "vector": dict(zip(terms, values.tolist(), strict=True)),
    }
    if document.title:
        line["title"] = document.title
    if document.metadata:
        line["metadata"] = document.metadata
    return json.dumps(line, ensure_ascii=False)


def _chunks(
    index: Index, progress: Progress | None
) -> Iterator[tuple[list[Document], ImpactBatch]]:
    """Yield live documents with their vectors, in order of arrival over all shards."""
    places = sorted(
        (ordinal, shard.number)
        for shard in index.shards.values()
        for ordinal in np.setdiff1d(
            np.arange(index.manifest.shards[shard.number].documents), shard.store.deleted()
        ).tolist()
    )
    for first in range(0, len(places), CHUNK):
        ordinals, shards = zip(*places[first : first + CHUNK], strict=True)
        yield index.fetch(shards, ordinals), index.vectors(shards, ordinals)
        if progress:
            progress(min(first + CHUNK, len(places)), len(places))
