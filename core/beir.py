"""A BEIR-format collection on disk: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/{split}.tsv``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import InputError
from .files import read_jsonl

Qrels = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Dataset:
    """The judged queries of one split.

    Attributes:
        name: the folder's name.
        split: which ``qrels/{split}.tsv``.
        corpus: path of ``corpus.jsonl`` (read only by those who need the texts).
        queries: query id -> text, the judged ones only, in the order of ``queries.jsonl``.
        qrels: query id -> document id -> grade; grades <= 0 are judged not relevant.
    """

    name: str
    split: str
    corpus: Path
    queries: dict[str, str]
    qrels: Qrels


def load_dataset(folder: Path | str, split: str = "test") -> Dataset:
    """Read the queries and judgments of a split.

    Raises:
        InputError: a folder or file that is not there (the splits that are get named), a broken
            line with its number, a judged query without a text.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; needs corpus.jsonl, queries.jsonl and qrels/{split}.tsv"
        )
    qrels = read_qrels(_qrels_path(folder, split))
    queries = {
        query: text
        for query, text in read_queries(folder / "queries.jsonl").items()
        if query in qrels
    }
    if missing := [query for query in qrels if query not in queries]:
        raise InputError(
            f"{folder}/qrels/{split}.tsv: {len(missing)} judged queries are not in queries.jsonl, "
            f"the first is {missing[0]!r}"
        )
    return Dataset(folder.resolve().name, split, folder / "corpus.jsonl", queries, qrels)


def read_queries(path: Path | str) -> dict[str, str]:
    """Query id -> text of a JSON-lines file with ``_id`` (or ``id``) and ``text``, in file order.

    Raises:
        InputError: no such file, no queries, a broken line, a missing key or a repeated id, with
            its line.
    """
    queries: dict[str, str] = {}
    for number, line in read_jsonl(path):
        query, text = line.get("_id", line.get("id")), line.get("text")
        if not isinstance(query, str) or not query:
            raise InputError(f"{path}:{number}: a query needs '_id', a string, found {query!r}")
        if not isinstance(text, str):
            raise InputError(
                f"{path}:{number}: query {query!r} needs 'text', a string, found {text!r}"
            )
        if query in queries:
            raise InputError(f"{path}:{number}: query id {query!r} is there twice")
        queries[query] = text
    if not queries:
        raise InputError(f"{path}: no queries in it")
    return queries


def read_qrels(path: Path | str) -> Qrels:
    """Judgments of a tab-separated file with the header ``query-id corpus-id score``.

    Raises:
        InputError: no such file, header or judgments, a line that is not (id, id, integer), a pair
            twice.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    qrels: Qrels = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rstrip("\r\n").split("\t")
            if number == 1:
                if fields != ["query-id", "corpus-id", "score"]:
                    raise InputError(
                        f"{path}:1: needs the tab-separated header 'query-id corpus-id score', "
                        f"found {line.strip()!r}"
                    )
                continue
            if not line.strip():
                continue
            try:
                query, document, grade = fields[0], fields[1], int(fields[2])
            except (IndexError, ValueError):
                raise InputError(
                    f"{path}:{number}: needs query id, document id and an integer grade, "
                    "tab-separated, "
                    f"found {line.strip()!r}"
                ) from None
            judged = qrels.setdefault(query, {})
            if document in judged:
                raise InputError(
                    f"{path}:{number}: query {query!r} and document {document!r} are judged twice"
                )
            judged[document] = grade
    if not qrels:
        raise InputError(f"{path}: no judgments in it")
    return qrels


def _qrels_path(folder: Path, split: str) -> Path:
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in (folder / "qrels").glob("*.tsv"))) or "none"
        raise InputError(f"{path}: no such file; splits that are there: {there}")
    return path
