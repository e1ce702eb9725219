"""A shard opened for searching: its segments in memory, its store, which documents are live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import CorruptError, InputError
from ...core.fields import Fields
from ..storage.documents import DocumentStore
from ..storage.ids import ResidentIds
from ..storage.manifest import IndexManifest, SegmentManifest, ShardManifest
from ..storage.segment import Segment, read_segment
from ..storage.tombstones import live_documents
from .fields import FieldColumns
from .searcher import Selection


@dataclass(frozen=True)
class OpenSegment:
    """A segment with its place in the shard.

    Attributes:
        segment: its postings.
        manifest: its place and its file.
        live: uint8 [documents], empty if nothing is deleted.
        fields: what filters read of the documents.
    """

    segment: Segment
    manifest: SegmentManifest
    live: NDArray[np.uint8]
    fields: FieldColumns

    @property
    def ordinals(self) -> NDArray[np.int64]:
        """int64 [documents], ascending: the ordinal of each document."""
        return self.manifest.first_ordinal + np.arange(self.manifest.documents)

    def allowed(self, inside: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
        """Return which documents are live and inside, as :attr:`live`."""
        if inside is None:
            return self.live
        allowed = inside.view(np.uint8)
        return allowed & self.live if len(self.live) else allowed


@dataclass(frozen=True)
class Shard:
    """One generation of a shard, in memory."""

    number: int
    directory: Path
    store: DocumentStore
    segments: tuple[OpenSegment, ...]
    ids: ResidentIds

    @classmethod
    def open(cls, root: Path, manifest: IndexManifest, shard: ShardManifest) -> Shard:
        """Read a shard and check its files.

        Raises:
            CorruptError: a missing or broken segment or store, or a store that lacks documents.
        """
        directory = manifest.shard_directory(root, shard.shard)
        store = DocumentStore.open(directory)
        try:
            if store.count() != shard.documents:
                raise CorruptError(
                    f"{store.path}: {store.count()} documents, the manifest says "
                    f"{shard.documents}; restore the file or build the index again"
                )
            deleted, ids = store.deleted(), ResidentIds(store.ids())
            segments = tuple(
                OpenSegment(
                    read_segment(directory, one, manifest),
                    one,
                    live_documents(one.first_ordinal, one.documents, deleted),
                    read_fields(store, one, manifest.fields, ids),
                )
                for one in shard.segments
            )
        except BaseException:
            store.close()
            raise
        return cls(shard.shard, directory, store, segments, ids)

    @property
    def blocks(self) -> int:
        """Blocks in all segments."""
        return sum(len(one.segment) for one in self.segments)

    @property
    def documents(self) -> int:
        """Ordinals given out, deleted documents included."""
        return sum(one.manifest.documents for one in self.segments)

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
                found.append((one.segment, one.manifest.first_ordinal, begin, end, inside))
            start += len(one.segment)
        return found


def read_fields(
    store: DocumentStore, segment: SegmentManifest, fields: Fields, ids: ResidentIds
) -> FieldColumns:
    """Derive the columns of a segment's documents from the store.

    Args:
        store: Of the shard.
        segment: Its place in the shard.
        fields: Declared fields.
        ids: Of the shard's documents.

    Raises:
        CorruptError: a value of another type than its field's, or a row that is altered.
    """
    first, documents = segment.first_ordinal, segment.documents
    if not fields:
        return FieldColumns(documents, {}, ids, first)
    try:
        return FieldColumns.of(store.metadata(first, first + documents), fields, ids, first)
    except InputError as error:
        raise CorruptError(f"{store.path}: {error}; drop the field and declare it again") from None
