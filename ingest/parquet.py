"""Vectors and documents as Parquet: the keys of JSON lines as columns.

Needs pyarrow, which ``csplade[parquet]`` installs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..core.document import Document
from ..core.files import write_aside
from ..core.parquet import import_pyarrow
from ..core.vectors import ImpactBatch


def write_parquet(
    path: Path,
    documents: Iterable[tuple[list[Document], ImpactBatch]],
    name: Callable[[int], str] | None,
) -> int:
    """Write documents with their vectors, whole or not at all; return how many there are.

    Columns are ``id``, ``title``, ``contents``, ``metadata`` (a JSON object as a string) and
    ``vector``: a map of token string to impact, or ``indices`` and ``values``.

    Args:
        path: the file to write.
        documents: in chunks, each a row group.
        name: gives the string of a term, no two the same; None writes ids.

    Raises:
        UnavailableError: pyarrow is not installed.
    """
    pa, parquet = import_pyarrow(path)
    integers = pa.list_(pa.int32())
    vector = (
        pa.struct([("indices", integers), ("values", integers)])
        if name is None
        else pa.map_(pa.string(), pa.int32())
    )
    texts = [(key, pa.string()) for key in ("id", "title", "contents", "metadata")]
    schema = pa.schema([*texts, ("vector", vector)])
    count = 0
    with (
        write_aside(path, "wb") as file,
        parquet.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for chunk, impacts in documents:
            columns = [
                pa.array([one.id for one in chunk], pa.string()),
                pa.array([one.title or None for one in chunk], pa.string()),
                pa.array([one.text for one in chunk], pa.string()),
                pa.array([_metadata(one) for one in chunk], pa.string()),
                _vectors(pa, impacts, name),
            ]
            writer.write_table(pa.table(columns, schema=schema))
            count += len(chunk)
    return count


def _metadata(document: Document) -> str | None:
    return json.dumps(document.metadata, ensure_ascii=False) if document.metadata else None


def _vectors(pa: Any, impacts: ImpactBatch, name: Callable[[int], str] | None) -> Any:
    """Return the column of vectors."""
    ends = pa.array(impacts.indptr.astype(np.int32))
    values = pa.array(impacts.impacts, pa.int32())
    if name is not None:
        words = pa.array([name(term) for term in impacts.terms.tolist()], pa.string())
        return pa.MapArray.from_arrays(ends, words, values)
    terms = pa.array(impacts.terms, pa.int32())
    lists = [pa.ListArray.from_arrays(ends, one) for one in (terms, values)]
    return pa.StructArray.from_arrays(lists, ["indices", "values"])
