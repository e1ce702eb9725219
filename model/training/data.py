"""Training data from BEIR-format folders: texts, packed blocks, queries with their positives and
negatives.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...core.files import read_jsonl


@dataclass(frozen=True)
class Collection:
    """One BEIR folder in memory.

    Attributes:
        name: the folder's name.
        passages: passage id -> title and text joined.
        queries: query id -> text.
        positives: query id -> ids of its relevant passages, of one split.
    """

    name: str
    passages: dict[str, str]
    queries: dict[str, str] = field(default_factory=dict)
    positives: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path, split: str | None = None) -> Collection:
        """Read a folder; without a split only its passages.

        Raises:
            InputError: a missing file, a broken line or a judgment of something that is not there.
        """
        passages = {
            str(row["_id"]): f"{row.get('title') or ''} {row['text']}".strip()
            for _, row in read_jsonl(directory / "corpus.jsonl")
        }
        if split is None:
            return cls(directory.name, passages)
        queries = {
            str(row["_id"]): str(row["text"]) for _, row in read_jsonl(directory / "queries.jsonl")
        }
        path = directory / "qrels" / f"{split}.tsv"
        if not path.is_file():
            raise InputError(f"{path}: no such file; choose a split that the collection has")
        positives: dict[str, list[str]] = {}
        with open(path, encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, delimiter="\t"), 2):
                query, passage = row["query-id"], row["corpus-id"]
                if query not in queries or passage not in passages:
                    raise InputError(
                        f"{path}:{number}: query {query!r} or passage {passage!r} is not in the "
                        "collection"
                    )
                if int(row["score"]) > 0:
                    positives.setdefault(query, []).append(passage)
        return cls(directory.name, passages, queries, positives)


def packed(tokens: Iterator[Sequence[int]], length: int, separator: int) -> NDArray[np.int64]:
    """Texts one after the other with a separator between, cut into rows of ``length``; int64 [rows,
    length].

    The last tokens that fill no row are left out.
    """
    stream = np.concatenate([np.asarray([*ids, separator], dtype=np.int64) for ids in tokens])
    rows = len(stream) // length
    return stream[: rows * length].reshape(rows, length)
