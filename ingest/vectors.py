"""Ready vectors as JSON lines, the form of Anserini: ``{"id", "contents", "vector": {term:
weight}}``.

Terms are token strings or integer ids in decimal; which of the two is told by the whole file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.document import Document
from ..core.errors import InputError
from ..core.vectors import DOCUMENT_SCALE, MAX_DOCUMENT_IMPACT, QUERY_SCALE, SparseBatch
from .jsonl import OnBad, read_corpus

Keys = Literal["ids", "tokens"]
Lookup = Callable[[str], int | None]

ID = re.compile(r"0|[1-9][0-9]{0,9}")
MAX_TERM = 2**31 - 2
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class VectorLine:
    """One text with its vector.

    Attributes:
        number: line in the file, from 1.
        document: id and contents (as the text), title and metadata if there.
        terms: keys of the vector, none repeated.
        weights: float32 [len(terms)], finite and > 0.
    """

    number: int
    document: Document
    terms: list[str]
    weights: NDArray[np.float32]


def read_vectors(path: Path | str, *, on_bad: OnBad | None = None) -> Iterator[VectorLine]:
    """Yield the lines of a file of vectors, ``.gz`` accepted.

    Args:
        path: the file; ``contents`` may be left out of its lines.
        on_bad: called with the error of a bad line, which is then skipped; without it the error is
            raised.

    Raises:
        InputError: no such file, or a bad line, naming file, line and term: no JSON object, no id
            or a repeated one, no vector, a weight that is no number, not finite, not > 0 or outside
            float32.
    """
    for number, document, line in read_corpus(
        path, text_key="contents", text_needed=False, on_bad=on_bad
    ):
        vector = line.get("vector")
        try:
            if not isinstance(vector, dict):
                raise InputError(
                    f"document {document.id!r} needs 'vector', an object of term: weight"
                )
            weights = _weights(vector)
        except InputError as error:
            bad = InputError(f"{path}:{number}: {error}")
            if on_bad is None:
                raise bad from None
            on_bad(bad)
            continue
        yield VectorLine(number, document, list(vector), weights)


def _weights(vector: Mapping[str, Any]) -> NDArray[np.float32]:
    """Weights of a vector, checked together first and one by one only to name the bad one."""
    values = list(vector.values())
    if set(map(type, values)) <= {int, float}:
        try:
            weights = np.array(values, dtype=np.float64)
        except OverflowError:  # an integer beyond float64
            weights = np.full(len(values), np.inf)
        if np.all((weights >= _SMALLEST) & (weights <= _LARGEST)):
            return weights.astype(np.float32)
    for term, value in vector.items():
        if type(value) not in (int, float):
            raise InputError(f"weight of term {term!r} is {value!r:.60}, must be a number")
        if not _SMALLEST <= value <= _LARGEST:
            raise InputError(
                f"weight of term {term!r} is {value!r:.60}, must be finite and > 0 in float32"
            )
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class VectorFile:
    """What a first reading of a file of vectors tells.

    Attributes:
        lines: good lines.
        keys: whether terms are integer ids (every key in the file is one) or token strings.
        terms: each distinct key and the first line it is on, ascending (ids as numbers, strings as
            strings).
        largest: largest weight.
        whole: every weight is a whole number.
    """

    lines: int
    keys: Keys
    terms: dict[str, int]
    largest: float
    whole: bool

    @property
    def scales(self) -> tuple[float, float]:
        """Weight of one document impact step and of one query impact step that suit the file's
        documents.

        The usual scales where they hold the largest weight; steps of 1 where weights are whole
        numbers up to 255 (made by another quantizer: kept exactly); otherwise as wide as the
        largest weight needs.
        """
        if self.largest <= DOCUMENT_SCALE * MAX_DOCUMENT_IMPACT:
            return DOCUMENT_SCALE, QUERY_SCALE
        if self.whole and self.largest <= MAX_DOCUMENT_IMPACT:
            return 1.0, 1.0
        scale = self.largest / MAX_DOCUMENT_IMPACT
        return scale, scale * (QUERY_SCALE / DOCUMENT_SCALE)


def scan_vectors(
    path: Path | str, *, keys: Keys | None = None, on_bad: OnBad | None = None
) -> VectorFile:
    """Read a whole file of vectors once: checks every line before anything is built from it.

    Args:
        path: the file.
        keys: what the terms are; None tells it by the file.
        on_bad: as for :func:`read_vectors`.

    Raises:
        InputError: as :func:`read_vectors`; also no lines, no terms at all, a key that is no id
            where ids are meant.
    """
    lines, largest, whole = 0, 0.0, True
    terms: dict[str, int] = {}
    for line in read_vectors(path, on_bad=on_bad):
        lines += 1
        for term in line.terms:
            terms.setdefault(term, line.number)
        if line.terms:
            largest = max(largest, float(line.weights.max()))
            whole = whole and bool((line.weights == np.rint(line.weights)).all())
    if not lines:
        raise InputError(f"{path}: no vectors in it")
    for term, number in terms.items():
        try:
            term.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{path}:{number}: term {term!r} is no valid Unicode: {error}"
            ) from None
    if not terms:
        raise InputError(f"{path}: not one of its {lines} vectors has a term")
    if keys is None:
        keys = "ids" if all(map(ID.fullmatch, terms)) else "tokens"
    if keys == "tokens":
        return VectorFile(lines, keys, dict(sorted(terms.items())), largest, whole)
    for term, number in terms.items():
        if not ID.fullmatch(term) or int(term) > MAX_TERM:
            raise InputError(
                f"{path}:{number}: term {term!r} is no integer id from 0 to {MAX_TERM}"
            )
    return VectorFile(
        lines, keys, dict(sorted(terms.items(), key=lambda item: int(item[0]))), largest, whole
    )


def ids_below(size: int) -> Lookup:
    """Lookup of integer ids in decimal; None for what is no id below ``size``."""
    return lambda key: int(key) if ID.fullmatch(key) and int(key) < size else None


def positions(tokens: Sequence[str]) -> Lookup:
    """Lookup of a token's place in a vocabulary; None for what is not in it."""
    return {token: term for term, token in enumerate(tokens)}.get


def to_batch(lines: Iterable[VectorLine], lookup: Lookup) -> tuple[SparseBatch, NDArray[np.int64]]:
    """Vectors of n lines as one batch, and int64 [n]: how many terms of each were dropped as
    unknown.
    """
    rows: list[tuple[list[int], NDArray[np.float32]]] = []
    dropped = []
    for line in lines:
        terms = [lookup(key) for key in line.terms]
        known = [place for place, term in enumerate(terms) if term is not None]
        dropped.append(len(terms) - len(known))
        rows.append(([term for term in terms if term is not None], line.weights[known]))
    return SparseBatch.from_rows(rows), np.array(dropped, dtype=np.int64)
