"""What a writer is asked to do, checked item by item: a bad item fails alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.document import Document
from ...core.errors import CspladeError, InputError
from ...core.fields import Fields, check_document
from ...core.results import Cut, WriteResult, WriteStatus
from ...core.vectors import SparseBatch, Vector, first_bad_weight, offsets
from ..storage.manifest import IndexManifest
from ..storage.wide import highest_impact


@dataclass(frozen=True)
class Upsert:
    """A document to be stored, in place of the one that has its id.

    Attributes:
        document: its id, title, text and metadata.
        vector: terms and weights; None keeps the stored vector, where title and text are the same.
        if_version: the version that the stored document must have; 0 if there must be none.
    """

    document: Document
    vector: Vector | None = None
    if_version: int | None = None


class Call:
    """The operations of one call; lets its caller wait for all of them."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.results: list[WriteResult | None] = []
        self._missing = 0
        self._done = threading.Event()

    def add(self, operation: Operation) -> None:
        """Add an operation, whose result comes later."""
        operation.call, operation.place = self, len(self.results)
        self.operations.append(operation)
        self.results.append(None)
        self._missing += 1

    def answer(self, place: int, result: WriteResult) -> None:
        """Set the result of an operation, in the committing thread."""
        self.results[place] = result
        self._missing -= 1
        if not self._missing:
            self._done.set()

    def wait(self) -> list[WriteResult]:
        """Return the results, in the order of the items, once all are there."""
        if self.operations:
            self._done.wait()
        return [result for result in self.results if result is not None]


@dataclass(eq=False)
class Operation:
    """One checked item.

    Attributes:
        id: of the document.
        document: to be stored; None deletes.
        metadata: of the document as JSON.
        vector: terms int32 and impacts uint16; None keeps the stored ones.
        clipped: impacts that were reduced to the maximum.
        if_version: as of :class:`Upsert`.
        size: bytes that it adds to a commit, about.
    """

    id: str
    document: Document | None
    metadata: str
    vector: tuple[NDArray[np.int32], NDArray[np.uint16]] | None
    clipped: int
    if_version: int | None
    size: int
    call: Call | None = None
    place: int = 0

    def finish(self, status: WriteStatus, version: int, error: CspladeError | None = None) -> None:
        """Tell the caller what became of the item."""
        assert self.call is not None
        written = status in ("created", "updated")
        cut = Cut(impacts=self.clipped if written else 0)
        self.call.answer(self.place, WriteResult(self.id, status, version, error, cut))


def checked_metadata(document: Document, fields: Fields) -> str:
    """Check what a store relies on; return the metadata as JSON.

    Raises:
        InputError: an id that is empty or no string, text that is not valid Unicode, metadata that
            is not JSON, or a declared field with a value of another type.
    """
    if not isinstance(document.id, str) or not document.id:
        raise InputError(f"document id {document.id!r} must be a non-empty string")
    try:
        f"{document.id}{document.title}{document.text}".encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"document id {document.id!r}: text is not valid Unicode: {error}"
        ) from None
    try:
        text = json.dumps(document.metadata, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"document id {document.id!r}: metadata is not JSON: {error}") from None
    check_document(document.metadata, fields, document.id)
    return text


def check_upserts(items: Sequence[Upsert], index: IndexManifest) -> Call:
    """Return the items as the operations of one call; bad ones have their result already."""
    call, vectors = Call(), _quantize(items, index)
    for item, vector in zip(items, vectors, strict=True):
        document = item.document
        try:
            if isinstance(vector, InputError):
                raise vector
            metadata = checked_metadata(document, index.fields)
            if item.if_version is not None and item.if_version < 0:
                raise InputError(
                    f"if_version: {item.if_version} is out of range; allowed 0 or more"
                )
        except InputError as error:
            call.results.append(WriteResult(str(document.id), "failed", 0, error))
            continue
        terms, impacts, clipped = vector or (None, None, 0)
        kept = None if terms is None or impacts is None else (terms, impacts)
        size = len(document.title) + len(document.text) + len(metadata)
        size += 0 if kept is None else 6 * len(kept[0])
        call.add(Operation(document.id, document, metadata, kept, clipped, item.if_version, size))
    return call


def check_deletes(ids: Sequence[str], if_version: int | None) -> Call:
    """Return deletions as the operations of one call."""
    call = Call()
    for id in ids:
        if not isinstance(id, str) or not id:
            error = InputError(f"document id {id!r} must be a non-empty string")
            call.results.append(WriteResult(str(id), "failed", 0, error))
            continue
        call.add(Operation(id, None, "", None, 0, if_version, len(id)))
    return call


Quantized = tuple[NDArray[np.int32], NDArray[np.uint16], int]


def _quantize(items: Sequence[Upsert], index: IndexManifest) -> list[Quantized | InputError | None]:
    """Return terms, impacts and the number of clipped impacts of each vector, or what is wrong."""
    found: list[Quantized | InputError | None] = [None] * len(items)
    places = [place for place, item in enumerate(items) if item.vector is not None]
    rows = [item.vector for item in items if item.vector is not None]
    for row in _doubtful(rows, index.vocabulary_size):
        try:
            ((terms, weights),) = SparseBatch.from_rows([rows[row]])
            _check_vector(terms, weights, index.vocabulary_size)
            rows[row] = terms, weights
        except (InputError, ValueError, TypeError, OverflowError) as error:
            id, what = items[places[row]].document.id, str(error).removeprefix("vector 0: ")
            found[places[row]] = InputError(f"document id {id!r}: vector: {what}")
            rows[row] = np.empty(0, np.int32), np.empty(0, np.float32)
    impacts, clipped = SparseBatch.join(rows).quantize(
        index.step, highest_impact(index.vocabulary_size)
    )
    values = impacts.impacts.astype(np.uint16)
    for row, place in enumerate(places):
        if found[place] is None:
            span = slice(impacts.indptr[row], impacts.indptr[row + 1])
            found[place] = impacts.terms[span], values[span], int(clipped[row])
    return found


def _doubtful(rows: Sequence[Vector], vocabulary_size: int) -> list[int]:
    """Return which vectors are not as they must be, checked all together."""
    plain = list(map(_is_plain, rows))
    batch = SparseBatch.join([row for row, sound in zip(rows, plain, strict=True) if sound])
    bad = (batch.terms < 0) | (batch.terms >= vocabulary_size)
    bad |= ~(np.isfinite(batch.weights) & (batch.weights > 0))
    falls = np.flatnonzero(np.diff(batch.terms) <= 0) + 1
    bad[falls[~np.isin(falls, batch.indptr)]] = True
    broken = np.diff(offsets(bad)[batch.indptr]) > 0
    sound = np.flatnonzero(plain)
    return sorted({*np.flatnonzero(~np.array(plain, dtype=bool)).tolist(), *sound[broken].tolist()})


def _is_plain(row: object) -> bool:
    """Return whether a vector is two arrays of the types that an index takes."""
    if not isinstance(row, tuple) or len(row) != 2:
        return False
    terms, weights = row
    return (
        isinstance(terms, np.ndarray)
        and isinstance(weights, np.ndarray)
        and terms.dtype == np.int32
        and weights.dtype == np.float32
        and terms.ndim == 1
        and terms.shape == weights.shape
    )


def _check_vector(
    terms: NDArray[np.int32], weights: NDArray[np.float32], vocabulary_size: int
) -> None:
    if len(terms) and terms[-1] >= vocabulary_size:
        raise InputError(
            f"term {terms[-1]}, the vocabulary has {vocabulary_size} (0 to {vocabulary_size - 1})"
        )
    if (bad := first_bad_weight(weights)) is not None:
        raise InputError(f"weight of term {terms[bad]} is {weights[bad]}; must be finite and > 0")
