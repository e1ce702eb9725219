"""A shard as one snapshot sees it: its segments in memory, which documents are live, its store.

A document has two numbers. Its ordinal is its number in the shard for ever. Its position is its
place among the documents that the shard's segments hold; the two are equal until deleted documents
are removed. Both ascend alike, so ranking by either is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...core.vectors import offsets
from ..storage.documents import DocumentStore
from ..storage.ids import ResidentIds
from ..storage.manifest import SegmentManifest, ShardManifest
from ..storage.segment import Segment
from .fields import FieldColumns
from .searcher import Selection

ALL_LIVE: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class OpenSegment:
    """A segment, or a part of the tail, with what is known of its documents.

    ``segment`` is the same object from snapshot to snapshot, while documents are only deleted.

    Attributes:
        segment: its postings.
        manifest: its file; None for a part of the tail, which is derived from the store.
        ordinals: uint32 [documents], ascending.
        versions: uint32 [documents], generation of the last write of each.
        fields: what filters read of the documents, and their ids.
        live: uint8 [documents], 0 where deleted; empty if nothing is.
        deleted: how many documents are.
        start: position of the first document, see :meth:`Shard.holding`.
    """

    segment: Segment
    manifest: SegmentManifest | None
    ordinals: NDArray[np.uint32]
    versions: NDArray[np.uint32]
    fields: FieldColumns
    live: NDArray[np.uint8]
    deleted: int
    start: int = 0

    def __len__(self) -> int:
        return len(self.ordinals)

    @property
    def ids(self) -> ResidentIds:
        """The documents' own ids."""
        return self.fields.ids

    @property
    def consecutive(self) -> bool:
        """Whether the ordinals have no gap."""
        return bool(self.ordinals[-1] - self.ordinals[0] == len(self) - 1)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Bool [documents], False where deleted."""
        return self.live.astype(bool) if len(self.live) else np.ones(len(self), dtype=bool)

    def allowed(self, inside: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
        """Return which documents are live and inside, as :attr:`live`."""
        if inside is None:
            return self.live
        allowed = inside.view(np.uint8)
        return allowed & self.live if len(self.live) else allowed

    def without(self, places: NDArray[np.int64]) -> OpenSegment:
        """Return the segment with some live documents deleted."""
        live = self.live.copy() if len(self.live) else np.ones(len(self), dtype=np.uint8)
        live[places] = 0
        return replace(self, live=live, deleted=self.deleted + len(places))


@dataclass(frozen=True, eq=False)
class Shard:
    """One shard of a snapshot.

    Attributes:
        number: of the shard.
        directory: with its files.
        store: for reading.
        manifest: of the files.
        segments: those of the files, then the tail, in ascending ordinals.
    """

    number: int
    directory: Path
    store: DocumentStore
    manifest: ShardManifest
    segments: tuple[OpenSegment, ...]

    def holding(
        self, segments: Sequence[OpenSegment], manifest: ShardManifest | None = None
    ) -> Shard:
        """Return the shard with other segments, which get their positions, and other files."""
        starts = offsets([len(one) for one in segments]).tolist()
        placed = tuple(
            one if one.start == start else replace(one, start=start)
            for one, start in zip(segments, starts, strict=False)
        )
        return replace(self, segments=placed, manifest=manifest or self.manifest)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Position of the first document of each segment, and the number of documents."""
        return offsets([len(one) for one in self.segments])

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        return np.array([one.ordinals[0] for one in self.segments], dtype=np.int64)

    @cached_property
    def dense(self) -> bool:
        """Whether every document's position is its ordinal."""
        begins = np.array_equal(self._firsts, self.starts[:-1])
        return begins and all(one.consecutive for one in self.segments)

    @property
    def documents(self) -> int:
        """Documents in the segments, deleted ones included."""
        return int(self.starts[-1])

    @property
    def deleted(self) -> int:
        """How many of the documents are deleted."""
        return sum(one.deleted for one in self.segments)

    @property
    def blocks(self) -> int:
        """Blocks in all segments."""
        return sum(len(one.segment) for one in self.segments)

    @property
    def tail(self) -> tuple[OpenSegment, ...]:
        """The segments that have no file yet."""
        return self.segments[len(self.manifest.segments) :]

    def described(self, generation: int) -> ShardManifest:
        """Return what the shard holds at a generation."""
        return replace(
            self.manifest,
            generation=generation,
            documents=self.documents,
            deleted=self.deleted,
            postings=sum(len(one.segment.locals) for one in self.segments),
        )

    def allowed(self, mask: Selection | None) -> list[NDArray[np.uint8]]:
        """Return :meth:`OpenSegment.allowed` of every segment."""
        return [
            one.allowed(None if mask is None else mask.of(self.number, one))
            for one in self.segments
        ]

    def parts(
        self, first: int, last: int, allowed: Sequence[NDArray[np.uint8] | None]
    ) -> list[tuple[Segment, int, int, int, NDArray[np.uint8]]]:
        """Return blocks ``first`` to ``last - 1`` of the shard as the CPU kernel takes them.

        ``allowed`` is :meth:`OpenSegment.allowed` of every segment, None for those to leave out.
        """
        found, start = [], 0
        for one, inside in zip(self.segments, allowed, strict=True):
            begin, end = max(first - start, 0), min(last - start, len(one.segment))
            if begin < end and inside is not None:
                found.append((one.segment, one.start, begin, end, inside))
            start += len(one.segment)
        return found

    def ordinals_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ordinals of documents by their positions."""
        if self.dense:
            return positions
        found = np.empty(len(positions), dtype=np.int64)
        numbers = np.searchsorted(self.starts, positions, side="right") - 1
        for number in np.unique(numbers).tolist():
            inside = numbers == number
            places = positions[inside] - self.starts[number]
            found[inside] = self.segments[number].ordinals[places]
        return found

    def locate(
        self, ordinals: NDArray[np.integer[Any]]
    ) -> list[tuple[OpenSegment, NDArray[np.int64], NDArray[np.int64]]]:
        """Return where documents are.

        Args:
            ordinals: any, in any order.

        Returns:
            For each segment concerned: it, which of the ordinals it holds, and their places in it.

        Raises:
            InputError: an ordinal that is not there.
        """
        wanted = np.asarray(ordinals, dtype=np.int64)
        numbers = np.searchsorted(self._firsts, wanted, side="right") - 1
        found = []
        for number in np.unique(numbers).tolist():
            inside = np.flatnonzero(numbers == number)
            if number < 0:
                raise self._missing(wanted[inside[0]])
            one = self.segments[number]
            places = np.searchsorted(one.ordinals, wanted[inside])
            absent = places == len(one)
            absent |= one.ordinals[np.minimum(places, len(one) - 1)] != wanted[inside]
            if absent.any():
                raise self._missing(wanted[inside[absent][0]])
            found.append((one, inside, places.astype(np.int64)))
        return found

    def _missing(self, ordinal: int) -> InputError:
        return InputError(
            f"ordinal is {ordinal}, shard {self.number} has {self.documents} documents (from 0), "
            "and not this one"
        )
