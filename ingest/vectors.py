"""Ready vectors as JSON lines: an id, perhaps a text, and ``vector``.

A vector is ``{term: weight}`` as Anserini and Pyserini write it, where a term is a token string or
an integer id in decimal, or ``{"indices": [...], "values": [...]}`` with integer ids as Qdrant
writes it. Parquet files hold the same in columns (:mod:`csplade.core.parquet`); files of the Common
Index File Format are read too (:mod:`.ciff`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.corpus import read_records
from ..core.document import Document, parse_id
from ..core.errors import InputError
from ..core.fields import Fields
from ..core.lines import Line, OnBad, files_of, is_tab_separated, located, plain_suffix, read_lines
from ..core.vectors import (
    MAX_QUERY_TERMS,
    SparseBatch,
)
from .ciff import SUFFIX as CIFF_SUFFIX
from .ciff import read_ciff
from .vector_line import VectorLine

Keys = Literal["ids", "tokens"]
Lookup = Callable[[str], int | None]

ID = re.compile(r"0|[1-9][0-9]{0,9}")
MAX_TERM = 2**31 - 2
# Lines kept to fit a scale to; at least half of it where the file has as many.
SAMPLE_LINES = 4096
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_PAIR = {"indices", "values"}


def read_vectors(
    path: Path | str, *, fields: Fields | None = None, on_bad: OnBad | None = None
) -> Iterator[VectorLine]:
    """Yield the vectors of a file or folder; see :mod:`.vectors`.

    A weight of zero means that the term is absent.

    Args:
        path: see :func:`csplade.core.corpus.read_records`, the text may be left out; or a file that
            ends in ``.ciff``, see :mod:`.ciff`.
        fields: declared fields, to check the metadata against.
        on_bad: see :data:`csplade.core.lines.OnBad`.

    Raises:
        InputError: as :func:`csplade.core.corpus.read_records`; a line has no vector, a weight that
            is not a number, not finite, negative or outside float32, an id that is not an integer
            from 0 to ``MAX_TERM`` or is repeated, or lists of different lengths.
    """
    if plain_suffix(Path(path)) == CIFF_SUFFIX:
        yield from read_ciff(Path(path))
        return
    for line, document, values in read_records(
        path, text_needed=False, reserved=("vector", *_PAIR), fields=fields, on_bad=on_bad
    ):
        try:
            terms, weights, has_ids = _vector(values)
        except InputError as error:
            bad = line.error(error)
            if on_bad is None:
                raise bad from None
            on_bad(bad)
            continue
        present = weights > 0
        if not present.all():
            terms = [term for term, kept in zip(terms, present.tolist(), strict=True) if kept]
        yield VectorLine(line, document, terms, weights[present], has_ids)


def read_query_vectors(path: Path | str) -> list[VectorLine]:
    """Read query vectors: JSON lines as :func:`read_vectors`, or the tab-separated topics of
    Anserini.

    Files named ``.tsv`` or ``.txt`` have lines ``id TAB token token ...``; the weight of a token is
    how often it stands there.

    Raises:
        InputError: as :func:`read_vectors`; a line without a tab, an id twice, more than
            ``MAX_QUERY_TERMS`` terms, no query at all.
    """
    files = files_of(Path(path))
    if any(map(is_tab_separated, files)):
        lines = [_topic(line) for file in files for line in read_lines(file)]
    else:
        lines = list(read_vectors(path))
    if not lines:
        raise InputError(f"{path}: no queries in it")
    seen: dict[str, VectorLine] = {}
    for one in lines:
        if seen.setdefault(one.document.id, one).line.text != one.line.text:
            raise one.line.error(
                f"query {one.document.id!r} is there already, and the lines differ"
            )
        if len(one.terms) > MAX_QUERY_TERMS:
            raise one.line.error(
                f"query {one.document.id!r} has {len(one.terms)} terms, at most {MAX_QUERY_TERMS}"
            )
    return list(seen.values())


def _topic(line: Line) -> VectorLine:
    query, tab, text = line.text.partition("\t")
    if not tab or text.lstrip().startswith("{"):
        raise line.error(f"needs query id, tab and tokens, found {line.text!r:.80}")
    with located(line):
        query = parse_id(query, "query id")
    counts = Counter(text.split())
    weights = np.array(list(counts.values()), dtype=np.float32)
    return VectorLine(line, Document(query, text), list(counts), weights, has_ids=False)


def _vector(values: dict[str, Any]) -> tuple[list[str], NDArray[np.float32], bool]:
    """Terms, weights (float32, zeros not yet left out) and whether the terms are ids."""
    vector = values.get("vector")
    if vector is None and values.keys() >= _PAIR:
        vector = {name: values[name] for name in _PAIR}
    if not isinstance(vector, dict):
        raise InputError("'vector' is needed, an object of term: weight or of indices and values")
    if len(vector) == 1 and isinstance(named := next(iter(vector.values())), dict):
        vector = named  # Qdrant names its sparse vectors
    if vector.keys() == _PAIR and isinstance(vector["indices"], list):
        return _pair(vector["indices"], vector["values"])
    return list(vector), _weights(list(vector), list(vector.values())), False


def _pair(indices: list[Any], weights: Any) -> tuple[list[str], NDArray[np.float32], bool]:
    if not isinstance(weights, list) or len(weights) != len(indices):
        count = len(weights) if isinstance(weights, list) else 0
        raise InputError(f"has {len(indices)} indices but {count} values")
    for index in indices:
        if type(index) is not int or not 0 <= index <= MAX_TERM:
            raise InputError(f"index {index!r:.40} must be an integer from 0 to {MAX_TERM}")
    terms = [str(index) for index in indices]
    if len(set(terms)) < len(terms):
        repeated = next(term for term, count in Counter(terms).items() if count > 1)
        raise InputError(f"index {repeated} is there twice")
    return terms, _weights(terms, weights), True


def _weights(terms: list[str], values: list[Any]) -> NDArray[np.float32]:
    """Check the weights of a vector, together first and one by one only to name the bad one."""
    if set(map(type, values)) <= {int, float}:
        try:
            weights = np.array(values, dtype=np.float64)
        except OverflowError:  # an integer beyond float64
            weights = np.full(len(values), np.inf)
        if np.all(((weights >= _SMALLEST) & (weights <= _LARGEST)) | (weights == 0)):
            return weights.astype(np.float32)
    for term, value in zip(terms, values, strict=True):
        if type(value) not in (int, float):
            raise InputError(f"weight of term {term!r} is {value!r:.60}, must be a number")
        if value != 0 and not _SMALLEST <= value <= _LARGEST:
            raise InputError(
                f"weight of term {term!r} is {value!r:.60}, must be 0 or more and finite in float32"
            )
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class VectorFile:
    """What a first reading of a file of vectors tells.

    Attributes:
        lines: good lines.
        keys: whether terms are integer ids or token strings.
        terms: each distinct term and the place of its first line, ascending (ids as numbers,
            strings as strings).
        largest: largest weight.
        whole: every weight is a whole number.
        sample: vectors in equal distances over the file.
    """

    lines: int
    keys: Keys
    terms: dict[str, str]
    largest: float
    whole: bool
    sample: tuple[VectorLine, ...]


def scan_vectors(
    path: Path | str,
    *,
    keys: Keys | None = None,
    default: Keys | None = None,
    fields: Fields | None = None,
    on_bad: OnBad | None = None,
) -> VectorFile:
    """Read a whole file of vectors once: checks every line before anything is built from it.

    Args:
        path: the file.
        keys: what the terms are; None takes what the lines say: ``indices`` are ids.
        default: what the terms of ``{term: weight}`` are where ``keys`` is None; None takes ids if
            every term of the file is one.
        fields, on_bad: as for :func:`read_vectors`.

    Raises:
        InputError: as :func:`read_vectors`; also no lines, no terms at all, a term that is not an
            id where ids are meant, ``indices`` where token strings are meant.
    """
    lines, largest, whole, stride = 0, 0.0, True, 1
    sample: list[VectorLine] = []
    terms: dict[str, str] = {}
    with_indices: str | None = None  # the place of the first vector of each form
    with_names: str | None = None
    for one in read_vectors(path, fields=fields, on_bad=on_bad):
        if lines % stride == 0:
            sample.append(one)
            if len(sample) == SAMPLE_LINES:
                sample, stride = sample[::2], 2 * stride
        lines += 1
        for term in one.terms:
            terms.setdefault(term, one.line.place)
        if one.terms:
            largest = max(largest, float(one.weights.max()))
            whole = whole and bool((one.weights == np.rint(one.weights)).all())
            if one.has_ids:
                with_indices = with_indices or one.line.place
            else:
                with_names = with_names or one.line.place
    if not lines:
        raise InputError(f"{path}: no vectors in it")
    if not terms:
        raise InputError(f"{path}: not one of its {lines} vectors has a term")
    if keys is None and not with_names:
        keys = "ids"
    keys = keys or default or ("ids" if all(map(ID.fullmatch, terms)) else "tokens")
    if keys == "tokens" and with_indices:
        raise InputError(
            f"{with_indices}: has indices, which are integer ids, but terms are token strings"
            + (f" at {with_names}" if with_names else "")
            + "; use --terms ids"
        )
    if keys == "tokens":
        ordered = dict(sorted(terms.items()))
        return VectorFile(lines, keys, ordered, largest, whole, tuple(sample))
    for term, place in terms.items():
        if not ID.fullmatch(term) or int(term) > MAX_TERM:
            raise InputError(f"{place}: term {term!r} must be an integer id from 0 to {MAX_TERM}")
    ordered = dict(sorted(terms.items(), key=lambda item: int(item[0])))
    return VectorFile(lines, keys, ordered, largest, whole, tuple(sample))


def ids_below(size: int) -> Lookup:
    """Return the lookup of integer ids in decimal; None for what is not an id below ``size``."""
    return lambda key: int(key) if ID.fullmatch(key) and int(key) < size else None


def positions(tokens: Sequence[str]) -> Lookup:
    """Return the lookup of a token's place in a vocabulary; None for what is not in it."""
    return {token: term for term, token in enumerate(tokens)}.get


def to_batch(
    lines: Iterable[VectorLine], lookup: Lookup, id_lookup: Lookup | None = None
) -> tuple[SparseBatch, NDArray[np.int64]]:
    """Return the vectors of n lines as one batch, and int64 [n]: how many terms of each were
    dropped as unknown.

    Args:
        lines: the vectors.
        lookup: gives the term of a key, None where it is unknown.
        id_lookup: the same for lines that say that their keys are ids; None takes ``lookup``.
    """
    rows: list[tuple[list[int], NDArray[np.float32]]] = []
    dropped = []
    for line in lines:
        find = id_lookup if id_lookup and line.has_ids else lookup
        terms = [find(key) for key in line.terms]
        known = [place for place, term in enumerate(terms) if term is not None]
        dropped.append(len(terms) - len(known))
        rows.append(([term for term in terms if term is not None], line.weights[known]))
    return SparseBatch.from_rows(rows), np.array(dropped, dtype=np.int64)
