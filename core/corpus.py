"""Documents from JSON lines or Parquet: an id, ``title``, ``text``, other keys as metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .document import Document, parse_id
from .errors import InputError
from .fields import Fields, check_document
from .lines import Line, OnBad, files_of, plain_suffix, read_jsonl
from .parquet import SUFFIX as PARQUET
from .parquet import read_parquet

ID_KEYS = ("_id", "id")
TEXT_KEYS = ("text", "contents")
# Names of a folder's files that hold documents; Anserini names JSON lines .json.
_SUFFIXES = ("", ".json", ".jsonl", ".ndjson", PARQUET)
_HASH_BITS = 2**64 - 1


class Record(NamedTuple):
    """One document of a file, and what else its line holds.

    Attributes:
        line: where it stands.
        document: its metadata has every key but id, title and text, and those of ``reserved``.
        values: the whole line.
    """

    line: Line
    document: Document
    values: dict[str, Any]


def read_corpus(
    path: Path | str, *, fields: Fields | None = None, on_bad: OnBad | None = None
) -> Iterator[Document]:
    """Yield the documents of a corpus in file order; see :func:`read_records`."""
    return (record.document for record in read_records(path, fields=fields, on_bad=on_bad))


def read_records(
    path: Path | str,
    *,
    text_needed: bool = True,
    reserved: tuple[str, ...] = (),
    fields: Fields | None = None,
    on_bad: OnBad | None = None,
) -> Iterator[Record]:
    """Yield the documents of a file or folder of JSON lines or Parquet, in file order.

    The id is ``_id`` or ``id``, a string or an integer; the text is ``text`` or ``contents``, the
    title ``title``. A line that comes again exactly alike is read once.

    Args:
        path: a file or a folder of files, see :func:`.lines.read_lines`; those whose names end in
            ``.parquet`` are read by :func:`.parquet.read_parquet`. A folder that holds
            ``corpus.jsonl`` is a BEIR collection, of which that file is read.
        text_needed: whether a line without text is bad.
        reserved: keys that are not metadata.
        fields: declared fields, to check the metadata against.
        on_bad: see :data:`.lines.OnBad`.

    Raises:
        InputError: as :func:`.lines.read_jsonl` and :func:`.parquet.read_parquet`; a line has no id
            or a bad one, an id of another document, a title or text that is not a string, both text
            keys, metadata that is twice there with different values, or a value that is not of its
            field's type.
        UnavailableError: Parquet, and pyarrow is not installed.
    """
    # one integer a document, to be small: line number, then 64 bits of a hash of the line
    seen: dict[str, int] = {}
    for line, values in _objects(corpus_path(Path(path)), on_bad):
        try:
            document = _document(values, text_needed, reserved)
            check_document(document.metadata, fields or {}, document.id)
            now = line.number << 64 | hash(line.text) & _HASH_BITS
            before = seen.setdefault(document.id, now)
            if (before ^ now) & _HASH_BITS:
                raise InputError(
                    f"id {document.id!r} is on line {before >> 64} already, and the lines differ"
                )
        except InputError as error:
            bad = line.error(error)
            if on_bad is None:
                raise bad from None
            on_bad(bad)
            continue
        if before == now:
            yield Record(line, document, values)


def id_of(values: dict[str, Any]) -> str:
    """Return the id of a document or query: ``_id`` or ``id``, a string or an integer.

    Raises:
        InputError: neither key is there, or the value is not an id, see :func:`.document.parse_id`.
    """
    for key in ID_KEYS:
        if key in values:
            return parse_id(values[key], key)
    raise InputError(f"'_id' or 'id' is needed, found {', '.join(map(repr, values)) or 'no key'}")


def text_of(values: dict[str, Any], needed: bool = True) -> str:
    """Return the text of a document or query: ``text`` or ``contents``.

    Raises:
        InputError: both keys are there, none is though one is needed, or the value is not a string.
    """
    found = [key for key in TEXT_KEYS if key in values]
    if len(found) == 2:
        raise InputError("'text' and 'contents' are both there; keep one of them")
    if not found:
        if needed:
            raise InputError("'text' or 'contents' is needed, a string")
        return ""
    text = values[found[0]]
    if not isinstance(text, str):
        raise InputError(f"{found[0]}: {text!r:.60} must be a string")
    return text


def corpus_path(path: Path) -> Path:
    """Return the corpus file of a BEIR folder, any other path as it is.

    Raises:
        InputError: a file of the folder is not JSON lines by its name.
    """
    if not path.is_dir():
        return path
    named = list(path.glob("corpus.jsonl*"))
    if len(named) == 1:
        return named[0]
    for file in files_of(path):
        if plain_suffix(file) not in _SUFFIXES or file.name.startswith("queries."):
            raise InputError(
                f"{file}: is not a file of documents; a folder of documents holds .jsonl, .json or "
                ".parquet files alone, JSON perhaps .gz or .zst"
            )
    return path


def _objects(path: Path, on_bad: OnBad | None) -> Iterator[tuple[Line, dict[str, Any]]]:
    for file in files_of(path):
        read = read_parquet if file.suffix == PARQUET else read_jsonl
        yield from read(file, on_bad=on_bad)


def _document(values: dict[str, Any], text_needed: bool, reserved: tuple[str, ...]) -> Document:
    identity = id_of(values)
    text = text_of(values, text_needed)
    title = values.get("title")
    if not isinstance(title, str | None):
        raise InputError(f"title: {title!r:.60} must be a string")
    id_key = next(key for key in ID_KEYS if key in values)
    metadata = _metadata(values, {id_key, "title", *TEXT_KEYS, *reserved})
    try:
        json.dumps(metadata, allow_nan=False)
    except ValueError:
        raise InputError("metadata: has a number beyond float64; write it as a string") from None
    except RecursionError:
        raise InputError("metadata: is nested too deeply") from None
    return Document(identity, text, title or "", metadata)


def _metadata(values: dict[str, Any], used: set[str]) -> dict[str, Any]:
    """All other keys; entries of an object "metadata", which BEIR files have, count like them."""
    outer = {name: value for name, value in values.items() if name not in used}
    inner = outer.pop("metadata", {})
    if not isinstance(inner, dict):
        return {"metadata": inner, **outer}
    for name in inner.keys() & outer.keys():
        if inner[name] != outer[name]:
            raise InputError(
                f"{name!r} is there twice, as {outer[name]!r:.40} and in 'metadata' as "
                f"{inner[name]!r:.40}"
            )
    return {**inner, **outer}
