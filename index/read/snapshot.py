"""A shard opened for searching: its segments in memory, its store, which documents are live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import CorruptError
from ..storage.documents import DocumentStore
from ..storage.ids import ResidentIds
from ..storage.manifest import IndexManifest, SegmentManifest, ShardManifest
from ..storage.segment import Segment, read_segment
from ..storage.tombstones import live_documents


@dataclass(frozen=True)
class OpenSegment:
    """A segment with its place in the shard.

    Attributes:
        segment: its postings.
        manifest: its place and its file.
        live: uint8 [documents], empty if nothing is deleted.
    """

    segment: Segment
    manifest: SegmentManifest
    live: NDArray[np.uint8]

    @property
    def ordinals(self) -> NDArray[np.int64]:
        """int64 [documents], ascending: the ordinal of each document."""
        return self.manifest.first_ordinal + np.arange(self.manifest.documents)

    def allowed(self, mask: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
        """Return which documents are live and inside the shard's mask, as :attr:`live`."""
        if mask is None:
            return self.live
        first = self.manifest.first_ordinal
        allowed = mask[first : first + self.manifest.documents].astype(np.uint8)
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

    def allowed(self, mask: NDArray[np.bool_] | None) -> list[NDArray[np.uint8]]:
        """Return :meth:`OpenSegment.allowed` of every segment; ``mask`` is bool [documents]."""
        return [one.allowed(mask) for one in self.segments]

    def parts(
        self, first: int, last: int, allowed: Sequence[NDArray[np.uint8]]
    ) -> list[tuple[Segment, int, int, int, NDArray[np.uint8]]]:
        """Return blocks ``first`` to ``last - 1`` of the shard as the CPU kernel takes them."""
        found, start = [], 0
        for one, inside in zip(self.segments, allowed, strict=True):
            begin, end = max(first - start, 0), min(last - start, len(one.segment))
            if begin < end:
                found.append((one.segment, one.manifest.first_ordinal, begin, end, inside))
            start += len(one.segment)
        return found
