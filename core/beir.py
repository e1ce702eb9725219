"""A BEIR collection on disk: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/{split}.tsv``.

Training and evaluation read it here, with the same rules. Each part may be ``.gz`` or ``.zst`` or a
folder of files; queries may be tab-separated, judgments in the format of TREC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .corpus import id_of, text_of
from .document import parse_id
from .errors import InputError
from .lines import Line, files_of, is_tab_separated, located, read_jsonl, read_lines

Qrels = dict[str, dict[str, int]]

HEADER = ("query-id", "corpus-id", "score")
MAX_GRADE = 10_000  # trec_eval keeps a counter for each grade
_COMPRESSIONS = ("", ".gz", ".zst")
_GRADE = re.compile(r"([+-]?[0-9]{1,18})(?:\.0*)?")


@dataclass(frozen=True)
class Dataset:
    """The judged queries of one split.

    Attributes:
        folder: the collection.
        split: which ``qrels/{split}.tsv``.
        queries: query id -> text, the judged ones only, in the order of the file.
        qrels: query id -> document id -> grade; grades <= 0 are judged not relevant.
        judged_at: document id -> ``FILE:LINE`` of its first judgment.
    """

    folder: Path
    split: str
    queries: dict[str, str]
    qrels: Qrels
    judged_at: dict[str, str]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def corpus(self) -> Path:
        """Path of the documents.

        Raises:
            InputError: the folder holds none, or several.
        """
        return find_part(self.folder, "corpus", (".jsonl",))


class Judgment(NamedTuple):
    """One line of judgments."""

    line: Line
    query: str
    document: str
    grade: int


def load_dataset(folder: Path | str, split: str = "test") -> Dataset:
    """Read the queries and judgments of a split.

    Raises:
        InputError: a folder or file that does not exist (the splits that exist are named), a bad
            line with its number, a judged query without a text.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; needs corpus.jsonl, queries.jsonl and qrels/{split}.tsv"
        )
    path = _qrels_path(folder, split)
    texts = read_queries(find_part(folder, "queries", (".jsonl", ".tsv")))
    judged_at: dict[str, str] = {}
    qrels: Qrels = {}
    for judgment in read_judgments(path):
        if judgment.query not in texts:
            raise judgment.line.error(
                f"query {judgment.query!r} is judged, but {folder} has no text of it"
            )
        qrels.setdefault(judgment.query, {})[judgment.document] = judgment.grade
        judged_at.setdefault(judgment.document, judgment.line.place)
    queries = {query: text for query, text in texts.items() if query in qrels}
    return Dataset(folder, split, queries, qrels, judged_at)


def read_queries(path: Path | str) -> dict[str, str]:
    """Return query id -> text, in file order.

    Files named ``.tsv`` or ``.txt`` have lines ``id TAB text``, all others JSON lines with ``_id``
    (or ``id``) and ``text``. A query that comes again with the same text is read once.

    Raises:
        InputError: no such file, no queries, or a bad line: a missing key, an id with white space,
            a text that is not a string, an id that has another text already.
    """
    queries: dict[str, str] = {}
    for line, query, text in _query_lines(Path(path)):
        if queries.setdefault(query, text) != text:
            raise line.error(f"query {query!r} is there already, with another text")
    if not queries:
        raise InputError(f"{path}: no queries in it")
    return queries


def read_judgments(path: Path | str) -> Iterator[Judgment]:
    """Yield the judgments of a file: ``query document grade`` or, as TREC, ``query 0 document
    grade``.

    Columns are separated by tabs or white space. The header ``query-id corpus-id score`` may stand
    above three columns. A judgment that comes again with the same grade is read once.

    Raises:
        InputError: no such file, no judgments, or a bad line: another number of columns than the
            lines before it, a grade that is not a whole number up to ``MAX_GRADE``, a pair that has
            another grade already.
    """
    grades: dict[tuple[str, str], int] = {}
    for file in files_of(Path(path)):
        width = None
        for line in read_lines(file):
            fields = split_columns(line.text, (3, 4))
            if width is None:
                width = len(fields)
                if tuple(fields) == HEADER:
                    continue
            judgment = _judgment(line, fields, width)
            pair = judgment.query, judgment.document
            if pair not in grades:
                grades[pair] = judgment.grade
                yield judgment
            elif grades[pair] != judgment.grade:
                raise line.error(
                    f"query {pair[0]!r} and document {pair[1]!r} have grade {grades[pair]} "
                    f"already, now {judgment.grade}"
                )
    if not grades:
        raise InputError(f"{path}: no judgments in it")


def read_qrels(path: Path | str) -> Qrels:
    """Return query id -> document id -> grade; see :func:`read_judgments`."""
    qrels: Qrels = {}
    for judgment in read_judgments(path):
        qrels.setdefault(judgment.query, {})[judgment.document] = judgment.grade
    return qrels


def split_columns(text: str, widths: tuple[int, ...]) -> list[str]:
    """Return the columns of a line, split at tabs if the width fits, else at white space."""
    fields = [field.strip() for field in text.split("\t")]
    return fields if len(fields) in widths else text.split()


def find_part(folder: Path, name: str, suffixes: tuple[str, ...]) -> Path:
    """Return the one file or folder of a collection that holds a part of it.

    Args:
        folder: the collection.
        name: of the part, without suffix; a folder of that name counts.
        suffixes: what a file's name may end in, before ``.gz`` or ``.zst``.

    Raises:
        InputError: none of them exists, or several.
    """
    names = [name, *(f"{name}{end}{packed}" for end in suffixes for packed in _COMPRESSIONS)]
    found = [path for one in names if (path := folder / one).exists()]
    if len(found) > 1:
        raise InputError(f"{found[0]}: {found[1].name} is there as well; keep one of them")
    if not found:
        raise InputError(f"{folder / name}{suffixes[0]}: no such file")
    return found[0]


def _query_lines(path: Path) -> Iterator[tuple[Line, str, str]]:
    for file in files_of(path):
        if is_tab_separated(file):
            for line in read_lines(file):
                query, tab, text = line.text.partition("\t")
                if not tab:
                    raise line.error(f"needs query id, tab and text, found {line.text!r:.80}")
                with located(line):
                    query = parse_id(query, "query id")
                yield line, query, text
        else:
            for line, values in read_jsonl(file):
                with located(line):
                    query, text = id_of(values), text_of(values)
                yield line, query, text


def _judgment(line: Line, fields: list[str], width: int) -> Judgment:
    if len(fields) != width or width not in (3, 4):
        needed = {3: "query, document, grade", 4: "query, 0, document, grade"}
        raise line.error(
            f"needs {needed.get(width, ' or '.join(needed.values()))}, separated by tabs, "
            f"found {line.text!r:.80}"
        )
    if width == 4 and not re.fullmatch(r"[0-9]+|Q0", fields[1]):
        raise line.error(f"the second of four columns must be 0, found {fields[1]!r:.40}")
    with located(line):
        query, document = parse_id(fields[0], "query id"), parse_id(fields[-2], "document id")
    grade = _GRADE.fullmatch(fields[-1])
    if grade is None or abs(int(grade[1])) > MAX_GRADE:
        raise line.error(
            f"grade: {fields[-1]!r:.40} must be a whole number from {-MAX_GRADE:,} to {MAX_GRADE:,}"
        )
    return Judgment(line, query, document, int(grade[1]))


def _qrels_path(folder: Path, split: str) -> Path:
    suffixes = (".tsv", ".txt", ".qrels", ".trec")
    try:
        return find_part(folder / "qrels", split, suffixes)
    except InputError:
        names = {file.name.split(".")[0] for file in (folder / "qrels").glob("*")}
        if split in names:
            raise
        raise InputError(
            f"{folder / 'qrels' / split}.tsv: no such file; splits that exist: "
            f"{', '.join(sorted(names)) or 'none'}"
        ) from None
