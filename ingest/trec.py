"""TREC run files: lines ``query Q0 document rank score tag``, ranks from 1."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ..core.beir import split_columns
from ..core.document import parse_id
from ..core.errors import InputError
from ..core.files import write_aside
from ..core.lines import Line, located, read_lines

_SCORE = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf(?:inity)?)", re.IGNORECASE
)
_RANK = re.compile(r"[0-9]{1,18}")
_WHITE_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


class Run(NamedTuple):
    """The rankings of a run.

    Attributes:
        rankings: query id -> document ids, best first.
        scores: query id -> float64 scores, in the same order.
        ties: hits that have the score of the hit before them, as trec_eval compares: in float32.
            They stand in the order of the rank column; trec_eval orders them by document id.
    """

    rankings: dict[str, list[str]]
    scores: dict[str, list[float]]
    ties: int


def read_run(path: Path | str) -> Run:
    """Read a run: hits by score descending, ties by the rank column.

    Columns are separated by tabs or white space. A line that comes again alike is read once.

    Raises:
        InputError: no such file, no lines, a line of another shape, a score that is not a number, a
            document that has another rank or score already under its query.
    """
    hits: dict[str, dict[str, tuple[float, int]]] = {}
    for line in read_lines(path):
        query, document, key = _parse(line)
        known = hits.setdefault(query, {}).setdefault(document, key)
        if known != key:
            raise line.error(f"document {document!r} is there already under query {query!r}")
    if not hits:
        raise InputError(f"{path}: no run lines in it")
    run = Run({}, {}, 0)
    ties = 0
    for query, found in hits.items():
        run.rankings[query] = sorted(found, key=found.__getitem__)
        run.scores[query] = [-found[document][0] for document in run.rankings[query]]
        with np.errstate(over="ignore"):
            seen = np.array(run.scores[query]).astype(np.float32)
        ties += int((seen[1:] == seen[:-1]).sum())
    return run._replace(ties=ties)


def _parse(line: Line) -> tuple[str, str, tuple[float, int]]:
    fields = split_columns(line.text, (6,))
    if len(fields) != 6 or not _RANK.fullmatch(fields[3]):
        raise line.error(
            f"a run line is 'query Q0 document rank score tag', found {line.text!r:.80}"
        )
    if not _SCORE.fullmatch(fields[4]):
        raise line.error(f"score: {fields[4]!r:.40} must be a number, such as 12.5")
    with located(line):
        query, document = parse_id(fields[0], "query id"), parse_id(fields[2], "document id")
    return query, document, (-float(fields[4]), int(fields[3]))


@dataclass
class RunWriter:
    """Writes the rankings of queries, one after the other.

    Attributes:
        lines: hits written.
        altered: hits whose document id has white space, written with ``_`` instead.
        ties: integer scores that are not below the score before them in float32.
    """

    file: IO[str]
    tag: str
    lines: int = 0
    altered: int = 0
    ties: int = 0
    _queries: set[str] = field(default_factory=set)

    def write(self, query: str, hits: Iterable[tuple[str, float | int]]) -> None:
        """Append one query's hits (document id, score), best first.

        trec_eval reads scores as float32 and orders equal ones by document id. So that it keeps the
        order of the hits, a float score that is not below the one before it is written as the next
        smaller float32. Integer scores are written as they are.

        Raises:
            InputError: the query's id has white space or was written already.
        """
        query = parse_id(query, "query id")
        if query in self._queries:
            raise InputError(f"query id: {query!r} is there twice")
        self._queries.add(query)
        before = np.float32(np.inf)
        for rank, (document, score) in enumerate(hits, 1):
            value = np.float32(score)
            if value >= before:
                if isinstance(score, int):
                    self.ties += 1
                else:
                    value = np.nextafter(before, np.float32(-np.inf))
            before = value
            # the shortest decimals that read back as the same float32
            text = str(score) if isinstance(score, int) else str(value)
            word = _WHITE_SPACE.sub("_", document) or "_"
            self.altered += word != document
            self.file.write(f"{query} Q0 {word} {rank} {text} {self.tag}\n")
            self.lines += 1


@contextmanager
def write_run(path: Path | str, tag: str = "csplade") -> Iterator[RunWriter]:
    """Open a run file for writing; it appears under its name only when it is whole.

    Raises:
        InputError: as :func:`check_run_place`.
    """
    check_run_place(path, tag)
    with write_aside(path) as file:
        yield RunWriter(file, tag)


def check_run_place(path: Path | str, tag: str = "csplade") -> None:
    """Check that a run can be written, before hours of searching.

    Raises:
        InputError: ``path`` has no folder, or is a file that is not a run; or the tag is not one
            word.
    """
    path = Path(path)
    parse_id(tag, "tag")
    if path.suffix in (".gz", ".zst"):
        raise InputError(f"{path}: a run is written as plain text; compress it afterwards")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, must be the name of a file")
    if path.exists() and path.stat().st_size:
        try:
            _parse(next(read_lines(path)))
        except (InputError, StopIteration):
            raise InputError(
                f"{path}: exists and is not a TREC run; delete it or write elsewhere"
            ) from None
