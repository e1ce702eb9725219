"""TREC run files: lines ``query Q0 document rank score tag``, ranks from 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..core.errors import InputError
from ..core.files import write_aside


class RunWriter:
    """Writes the rankings of queries, one after the other."""

    def __init__(self, file: IO[str], tag: str) -> None:
        self._file = file
        self._tag = _word(tag, "tag")
        self.lines = 0

    def write(self, query: str, hits: Iterable[tuple[str, float | int]]) -> None:
        """Append one query's hits (document id, score), best first.

        Raises:
            InputError: an id that is empty or has white space in it, which a run line cannot hold.
        """
        query = _word(query, "query id")
        for rank, (document, score) in enumerate(hits, 1):
            # nine digits keep every int32 score apart
            text = str(score) if isinstance(score, int) else f"{score:.9g}"
            self._file.write(
                f"{query} Q0 {_word(document, 'document id')} {rank} {text} {self._tag}\n"
            )
            self.lines += 1


@contextmanager
def write_run(path: Path | str, tag: str = "csplade") -> Iterator[RunWriter]:
    """Open a run file for writing; it appears under its name only when it is whole."""
    with write_aside(path) as file:
        yield RunWriter(file, tag)


def read_run(path: Path | str) -> dict[str, list[str]]:
    """Query id -> document ids, best first: by score descending as trec_eval orders, ties by the
    rank column.

    Raises:
        InputError: no such file, no lines, a line of another shape, a document twice under one
            query.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    ranked: dict[str, dict[str, tuple[float, int]]] = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                query, _, document, rank, score, _ = line.split()
                key = (-float(score), int(rank))
            except ValueError:
                raise InputError(
                    f"{path}:{number}: a run line is 'query Q0 document rank score tag', "
                    f"found {line.strip()!r}"
                ) from None
            if key[0] != key[0]:
                raise InputError(f"{path}:{number}: score {score!r} is not a number")
            hits = ranked.setdefault(query, {})
            if document in hits:
                raise InputError(
                    f"{path}:{number}: document {document!r} is there twice under query {query!r}"
                )
            hits[document] = key
    if not ranked:
        raise InputError(f"{path}: no run lines in it")
    return {query: sorted(hits, key=hits.__getitem__) for query, hits in ranked.items()}


def _word(text: str, what: str) -> str:
    if len(text.split()) != 1 or text != text.strip():
        raise InputError(
            f"{what} {text!r}: a TREC run line holds no empty id and none with white space"
        )
    return text
