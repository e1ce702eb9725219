"""A file of texts to a file of vectors, one JSON line each, resumable after a kill at any instant.

Lines go to ``OUTPUT.part``, which becomes ``OUTPUT`` when whole. ``OUTPUT.part.json`` says what the
part is made with, so that a resumed run cannot mix two models; ``OUTPUT.job.json`` says the same of
the whole file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ..core.corpus import read_corpus
from ..core.document import Document
from ..core.errors import IncompatibleError, InputError
from ..core.files import sync_directory
from ..core.lines import OnBad
from ..core.resume import is_finished, read_settings, require_same_settings, write_settings
from ..core.vectors import SparseBatch
from . import chunks
from .vectors import Keys

if TYPE_CHECKING:
    from ..model import Encoder
    from ..model.tokens import Kind

Progress = Callable[[int, int], None]
"""Called with texts done and texts in all, first with those that an earlier run left."""


@dataclass
class EncodeReport:
    """What a run did.

    Attributes:
        texts: in the source.
        resumed: vectors kept from an earlier run.
        finished: the earlier run had written all of them, and nothing was done.
        skipped: bad lines.
        dropped_tokens, dropped_terms: cut by the caps in this run.
        empty: vectors of this run without a term, those of blank texts left out.
    """

    texts: int = 0
    resumed: int = 0
    finished: bool = False
    skipped: int = 0
    dropped_tokens: int = 0
    dropped_terms: int = 0
    empty: int = 0


def encode_file(
    source: Path | str,
    output: Path | str,
    encoder: Encoder | Callable[[], Encoder],
    *,
    kind: Kind = "document",
    keys: Keys = "tokens",
    on_bad: OnBad | None = None,
    progress: Progress | None = None,
) -> EncodeReport:
    """Write ``{"id", "contents", "vector"}`` for every text, in file order.

    Args:
        source: JSON lines with ``_id`` or ``id``, ``text`` and perhaps ``title``.
        output: not there yet; what a killed run left in ``OUTPUT.part`` is kept and continued. A
            finished one of the same source, model and settings is left as it is.
        encoder: what makes the vectors, or a function that loads it once the source has been
            checked.
        kind: on which side the texts stand.
        keys: terms as token strings or as integer ids.
        on_bad: gets the error of each bad line, which is then skipped and counted; without it, it
            is raised.
        progress: called after each batch of texts.

    Raises:
        InputError: a bad source or one without texts; an output that is something else, or that
            another process is writing; terms without token strings of their own.
        IncompatibleError: part or output was made of another source, model or setting.
    """
    output, report = Path(output), EncodeReport()

    def count_bad(error: InputError) -> None:
        report.skipped += 1
        if on_bad:
            on_bad(error)

    finished = output.with_name(output.name + ".job.json")
    if output.exists() and not finished.is_file():
        raise InputError(f"{output}: is there already; delete it or write elsewhere")
    texts = hashlib.sha256()
    for document in read_corpus(source, on_bad=on_bad and count_bad):
        report.texts += 1
        texts.update(json.dumps([document.id, document.full_text]).encode())
    if not report.texts:
        raise InputError(
            f"{source}: no texts in it" + (f", {report.skipped} bad lines" if on_bad else "")
        )
    encoder = encoder() if callable(encoder) else encoder
    made_with = {
        "model": encoder.fingerprint,
        "quantization": encoder.quantization,
        "kind": kind,
        "terms": keys,
    }
    whole = {**made_with, "texts": texts.hexdigest()[:16]}
    if is_finished(output, finished, whole):
        report.finished = True
        return report
    name = name_terms(encoder, keys)
    documents = read_corpus(source, on_bad=on_bad and (lambda error: None))
    with _part(output, made_with, finished, whole) as part:
        report.resumed = _keep_whole_lines(part)
        done = report.resumed
        if progress:
            progress(done, report.texts)

        def advance(texts: int) -> None:
            nonlocal done
            done += texts
            if progress:
                progress(done, report.texts)

        first = 0
        part.seek(0)
        for chunk in chunks.chunks(documents, chunks.TEXTS):
            known = min(max(report.resumed - first, 0), len(chunk))
            _require_same_texts(part, output, chunk[:known])
            first += len(chunk)
            if known == len(chunk):
                continue
            done = first - len(chunk)
            encoded = encoder.encode([one.full_text for one in chunk], kind, progress=advance)
            advance(first - done)  # empty texts are in no batch
            report.dropped_tokens += int(encoded.dropped_tokens.sum())
            report.dropped_terms += int(encoded.dropped_terms.sum())
            # Blank texts have no tokens.
            report.empty += int(
                ((encoded.tokens > 0) & (np.diff(encoded.vectors.indptr) == 0)).sum()
            )
            part.writelines(list(_lines(chunk, encoded.vectors, name))[known:])
            part.flush()
            os.fsync(part.fileno())
        if report.resumed > first:
            raise IncompatibleError(
                f"{output}.part: holds {report.resumed} texts, {source} has {first}; delete it to "
                "start again"
            )
    return report


@contextmanager
def _part(
    output: Path, made_with: dict[str, str], finished: Path, whole: dict[str, str]
) -> Iterator[BinaryIO]:
    """Open the part for reading and appending; when the block ends well, it becomes the output."""
    path, note = (
        output.with_name(output.name + ".part"),
        output.with_name(output.name + ".part.json"),
    )
    if not path.exists():
        write_settings(note, made_with)
    with open(path, "a+b") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{output}: another process is writing it") from None
        require_same_settings(path, read_settings(note), made_with)
        yield part
        part.flush()
        os.fsync(part.fileno())
        write_settings(finished, whole)
        os.replace(path, output)
    note.unlink()
    sync_directory(output.parent)


def _keep_whole_lines(part: BinaryIO) -> int:
    """Cut off a torn last line; returns how many whole ones are left."""
    part.seek(0)
    whole, end = 0, 0
    for line in part:
        if not line.endswith(b"\n"):
            break
        whole, end = whole + 1, end + len(line)
    part.truncate(end)
    return whole


def _require_same_texts(part: BinaryIO, output: Path, documents: list[Document]) -> None:
    for document in documents:
        try:
            line = json.loads(part.readline())
            same = (line["id"], line["contents"]) == (document.id, document.full_text)
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise IncompatibleError(
                f"{output}.part: has another text where the source has {document.id!r}; "
                "delete it to start again"
            )


def _lines(
    documents: list[Document], vectors: SparseBatch, name: Callable[[int], str]
) -> Iterator[bytes]:
    for document, (terms, weights) in zip(documents, vectors, strict=True):
        # the shortest decimals that read back as the same float32
        vector = dict(
            zip(map(name, terms.tolist()), map(float, weights.astype(str).tolist()), strict=True)
        )
        line = {"id": document.id, "contents": document.full_text, "vector": vector}
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


def name_terms(encoder: Encoder, keys: Keys) -> Callable[[int], str]:
    """Return how terms are written; a token string must lead back to its term.

    Raises:
        InputError: a term that the model may give has no token string of its own.
    """
    if keys == "ids":
        return str
    names, vocabulary = encoder.tokens(), encoder.vocabulary()
    unnamed = [term for term in encoder.terms().tolist() if vocabulary.get(names[term]) != term]
    if unnamed:
        raise InputError(
            f"terms: {len(unnamed):,} of the {len(names):,} terms of {encoder.name}, such as "
            f"{unnamed[0]}, have no token string of their own; give --terms ids"
        )
    return names.__getitem__
