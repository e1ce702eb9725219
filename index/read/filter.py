"""Filters as masks: evaluated per segment on its columns, kept while they are used."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...core.filters import Condition, Exists, Filter, HasId, Match, Range
from ...kernels.score.types import MAX_BLOCK_DOCUMENTS
from .fields import Column, FieldColumns
from .rare import NOTHING, RARE_FROM, RARE_SHARE, RareDocuments
from .searcher import S, Sized
from .shard import OpenSegment

log = logging.getLogger(__name__)

# A byte per document and filter: 32 filters over 8 M documents.
CACHE_BYTES = 256 * 2**20
# Filters hold values of their own, which the bytes do not count.
CACHE_FILTERS = 1024
# Share of the bytes that one thing takes at most which is made beside the searches.
LARGEST_SHARE = 0.25


class _Later(Enum):
    """What is known of something that is made beside the searches: asked for once, or begun."""

    ASKED = 1
    BEGUN = 2
    TOO_LARGE = 3

    @property
    def nbytes(self) -> int:
        return 0


class FilterCache:
    """What filters come to, by what it is made of; the filters used last stay. Safe for threads.

    Args:
        limit: Bytes to keep at most, on all devices together.

    Attributes:
        nbytes: Bytes that are kept; those of owners that are gone count until the limit is reached.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit, self.nbytes = limit, 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[Filter, MutableMapping[object, Any]] = OrderedDict()
        self._hits = self._misses = 0
        self._thread = ThreadPoolExecutor(1, "csplade-filter")

    def get(self, filter: Filter, owner: object, make: Callable[[], S]) -> S:
        """Return the bits of a filter.

        Args:
            filter: Resolved.
            owner: What the bits are of; it never changes. Bits go when it does.
            make: Makes them if they are not there.
        """
        with self._lock:
            if (kept := self._kept.get(filter)) is not None:
                self._kept.move_to_end(filter)
                if (bits := kept.get(owner)) is not None:
                    self._hits += 1
                    found: S = bits
                    return found
            self._misses += 1
        bits = make()
        with self._lock:
            kept = self._kept.setdefault(filter, WeakKeyDictionary())
            added = 0 if owner in kept else bits.nbytes
            kept[owner] = bits
            self._grow(added)
        return bits

    def get_later(self, filter: Filter, owner: object, make: Callable[[], S]) -> S | None:
        """Return what takes long to make, once it is there.

        The second call begins to make it in a thread, so that no search waits for it, and a filter
        that is used once costs nothing.

        Args:
            filter, owner, make: As of :meth:`get`, which holds something of the filter already.
        """
        with self._lock:
            kept = self._kept.get(filter)
            found = None if kept is None else kept.get(owner)
            if kept is None:
                return None
            if found is None:
                kept[owner] = _Later.ASKED
                return None
            if not isinstance(found, _Later):
                ready: S = found
                return ready
            if found is not _Later.ASKED:
                return None
            kept[owner] = _Later.BEGUN
        self._thread.submit(self._make, filter, weakref.ref(owner), make)
        return None

    def _make(self, filter: Filter, owner: weakref.ref[object], make: Callable[[], Sized]) -> None:
        try:
            made = make()
        except Exception:  # nobody waits for it, and searches go on without
            log.exception("what a filter comes to could not be made")
            return
        with self._lock:
            kept, there = self._kept.get(filter), owner()
            if kept is None or there is None:
                return
            if made.nbytes > self._limit * LARGEST_SHARE:
                kept[there] = _Later.TOO_LARGE
                return
            kept[there] = made
            self._grow(made.nbytes)

    def settle(self) -> None:
        """Wait until everything is made that was begun."""
        self._thread.submit(lambda: None).result()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _grow(self, nbytes: int) -> None:
        """Count more bytes, and drop the filters used least lately if there are too many."""
        self.nbytes += nbytes
        if self.nbytes > self._limit or len(self._kept) > CACHE_FILTERS:
            self.nbytes = sum(map(_bytes, self._kept.values()))
        while self.nbytes > self._limit or len(self._kept) > CACHE_FILTERS:
            self.nbytes -= _bytes(self._kept.popitem(last=False)[1])

    def take_counts(self) -> tuple[int, int]:
        """Return hits and misses since the last call."""
        with self._lock:
            counts = self._hits, self._misses
            self._hits = self._misses = 0
        return counts


@dataclass(frozen=True)
class FilterMask:
    """The documents that a filter holds for: a :class:`.searcher.Selection`.

    Attributes:
        filter: Resolved.
        cache: Keeps its bits.
    """

    filter: Filter
    cache: FilterCache

    def check(self, documents: Mapping[int, int]) -> None:
        """Accept any shards: the filter is evaluated on what is searched."""

    def of(self, shard: int, segment: OpenSegment) -> NDArray[np.bool_]:
        """Return which documents of a segment are inside: bool [documents]."""
        columns = segment.fields
        return self.cache.get(self.filter, columns, lambda: evaluate(self.filter, columns))

    def rare(self, segment: OpenSegment, inside: NDArray[np.bool_]) -> RareDocuments | None:
        """Return the documents inside as a block of their own, if they are few and it is ready."""
        count, postings = int(np.count_nonzero(inside)), segment.segment
        if not count:
            return NOTHING
        most = min(RARE_SHARE * len(inside), MAX_BLOCK_DOCUMENTS)
        if count > most or len(inside) < RARE_FROM:
            return None
        return self.cache.get_later(
            self.filter, postings, lambda: RareDocuments.of(postings, inside)
        )

    def keep(self, owner: object, make: Callable[[], S]) -> S:
        """Return what ``make`` makes of this selection for an owner, made once while it is used."""
        return self.cache.get(self.filter, owner, make)


def evaluate(condition: Condition, columns: FieldColumns) -> NDArray[np.bool_]:
    """Return which documents a resolved filter, or one of its conditions, holds for: bool [n].

    Raises:
        InputError: the documents have no column of a field.
    """
    match condition:
        case HasId(ids):
            return columns.have_id(ids)
        case Match(field, values, excluded):
            return _column(columns, field).match(values, excluded)
        case Range(field, gt, gte, lt, lte):
            return _column(columns, field).within(gt, gte, lt, lte)
        case Exists(field, exists):
            found = _column(columns, field).exists()
            return found if exists else ~found
        case Filter(must, should, must_not):
            kept = np.ones(columns.documents, dtype=np.bool_)
            for one in must:
                kept &= evaluate(one, columns)
            if should:
                some = np.zeros(columns.documents, dtype=np.bool_)
                for one in should:
                    some |= evaluate(one, columns)
                kept &= some
            for one in must_not:
                kept &= ~evaluate(one, columns)
            return kept


def _column(columns: FieldColumns, field: str) -> Column:
    if (column := columns.columns.get(field)) is None:
        raise InputError(f"filter: field {field!r:.60} is no longer declared; declare it again")
    return column


def _bytes(kept: MutableMapping[object, Any]) -> int:
    return sum(bits.nbytes for bits in kept.values())
