"""Training data from BEIR-format folders: passages, queries with their positives, packed rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.beir import find_part, load_dataset
from ...core.corpus import read_corpus
from ...core.errors import InputError
from .output import digest


@dataclass(frozen=True)
class Collection:
    """One BEIR folder in memory.

    Attributes:
        name: the folder's name.
        passages: passage id -> title and text joined.
        queries: query id -> text, the judged ones of one split.
        positives: query id -> ids of its relevant passages, of that split.
    """

    name: str
    passages: dict[str, str]
    queries: dict[str, str] = field(default_factory=dict)
    positives: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path, split: str | None = None) -> Collection:
        """Read a folder; without a split only its passages.

        Raises:
            InputError: as :func:`csplade.core.beir.load_dataset`; a judged document that is not in
                the corpus, or not one relevant document.
        """
        if split is None:
            corpus = find_part(directory, "corpus", (".jsonl",))
            return cls(directory.name, {one.id: one.full_text for one in read_corpus(corpus)})
        dataset = load_dataset(directory, split)
        passages = {one.id: one.full_text for one in read_corpus(dataset.corpus)}
        for passage, place in dataset.judged_at.items():
            if passage not in passages:
                raise InputError(f"{place}: document {passage!r} is judged, but not in the corpus")
        positives = {
            query: relevant
            for query, grades in dataset.qrels.items()
            if (relevant := [passage for passage, grade in grades.items() if grade > 0])
        }
        if not positives:
            raise InputError(f"{directory}: split {split!r} has no judgment above 0")
        return cls(directory.name, passages, dataset.queries, positives)

    def digest(self) -> str:
        """Return a hash of passages, queries and judgments."""
        judged = (part for query, found in self.positives.items() for part in (query, *found))
        held = (part for texts in (self.passages, self.queries) for part in texts.items())
        return digest([*(text for pair in held for text in pair), *judged])


def packed(tokens: Iterator[Sequence[int]], length: int, separator: int) -> NDArray[np.int64]:
    """Join texts with a separator and cut them into rows; int64 [rows, length].

    The last tokens, which do not fill a row, are left out.

    Raises:
        InputError: fewer tokens than one row.
    """
    stream = np.concatenate([np.asarray([*ids, separator], dtype=np.int64) for ids in tokens])
    rows = len(stream) // length
    if not rows:
        raise InputError(
            f"length: {length} tokens a row, but the texts have {len(stream):,} in all; give more "
            "texts or a smaller --length"
        )
    return stream[: rows * length].reshape(rows, length)
