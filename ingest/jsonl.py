"""Documents from JSON lines: ``_id`` (or ``id``), ``title``, ``text``, every other key as metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..core.document import Document
from ..core.errors import InputError
from ..core.files import read_jsonl

# Texts encoded together; cut at the same places after a resume, so that every vector comes out the
# same.
CHUNK = 256

OnBad = Callable[[InputError], None]


def read_corpus(
    path: Path | str,
    *,
    text_key: str = "text",
    text_needed: bool = True,
    on_bad: OnBad | None = None,
) -> Iterator[tuple[int, Document, dict[str, Any]]]:
    """Yield (line number, document, the whole line) in file order; ``.gz`` accepted.

    Args:
        path: the file.
        text_key: the key that holds the text.
        text_needed: whether a line without text is bad.
        on_bad: called with the error of a bad line, which is then skipped; without it the error is
            raised.

    Raises:
        InputError: no such file; a line that is no JSON object, has no id, an id met before, a
            title or text that is no string, or half of a Unicode pair.
    """
    first_line: dict[str, int] = {}
    for number, line in read_jsonl(path, on_bad=on_bad):
        try:
            document = _document(line, text_key, text_needed)
            if document.id in first_line:
                raise InputError(f"id {document.id!r} is on line {first_line[document.id]} already")
        except InputError as error:
            bad = InputError(f"{path}:{number}: {error}")
            if on_bad is None:
                raise bad from None
            on_bad(bad)
            continue
        first_line[document.id] = number
        yield number, document, line


def joined_text(document: Document) -> str:
    """What is encoded of a document: title and text with a space between, empty parts left out."""
    return " ".join(part for part in (document.title, document.text) if part)


def _document(line: dict[str, Any], text_key: str, text_needed: bool) -> Document:
    key = "_id" if "_id" in line else "id"
    if not isinstance(line.get(key), str) or not line[key]:
        raise InputError(
            f"a document needs '_id' or 'id', a string that is not empty, found {line.get(key)!r}"
        )
    title: Any = "" if line.get("title") is None else line["title"]
    text: Any = line.get(text_key, None if text_needed else "")
    for name, value in (("title", title), (text_key, text)):
        if not isinstance(value, str):
            raise InputError(
                f"document {line[key]!r} needs {name!r} as a string, found {value!r:.60}"
            )
    rest = {
        name: value
        for name, value in line.items()
        if name not in (key, "title", text_key, "vector")
    }
    # BEIR files carry an object "metadata" (mostly empty): its entries count like the other keys
    inner = rest.pop("metadata", {})
    metadata = {**inner, **rest} if isinstance(inner, dict) else {"metadata": inner, **rest}
    for value in (
        line[key],
        title,
        text,
        json.dumps(metadata, ensure_ascii=False) if metadata else "",
    ):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"document {line[key]!r} is no valid Unicode: {error}") from None
    return Document(line[key], text, title, metadata)
