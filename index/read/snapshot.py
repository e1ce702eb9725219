"""A shard opened for searching: its segments in memory, its document store, and which documents are
alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import CorruptError
from ..storage.documents import DocumentStore
from ..storage.manifest import IndexManifest, SegmentManifest, ShardManifest
from ..storage.segment import Segment, read_segment

ALL_ALIVE = np.zeros(0, dtype=np.uint8)


@dataclass(frozen=True)
class OpenSegment:
    """A segment with its place in the shard; ``alive``: a byte per document, none if nothing is
    deleted.
    """

    segment: Segment
    manifest: SegmentManifest
    alive: NDArray[np.uint8]


@dataclass(frozen=True)
class Shard:
    """One generation of a shard, in memory."""

    number: int
    directory: Path
    store: DocumentStore
    segments: tuple[OpenSegment, ...]

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
                    f"{shard.documents}; "
                    "bring back the file or build the index again"
                )
            dead = store.dead()
            segments = tuple(
                OpenSegment(read_segment(directory, one), one, _alive(one, dead))
                for one in shard.segments
            )
        except BaseException:
            store.close()
            raise
        return cls(shard.shard, directory, store, segments)

    @property
    def blocks(self) -> int:
        """Blocks in all segments."""
        return sum(len(one.segment) for one in self.segments)

    def parts(
        self, first: int, last: int
    ) -> list[tuple[Segment, int, int, int, NDArray[np.uint8]]]:
        """Blocks ``first`` to ``last - 1`` of the shard as the scorer takes them, segment by
        segment.
        """
        found, start = [], 0
        for one in self.segments:
            begin, end = max(first - start, 0), min(last - start, len(one.segment))
            if begin < end:
                found.append((one.segment, one.manifest.first_ordinal, begin, end, one.alive))
            start += len(one.segment)
        return found


def _alive(segment: SegmentManifest, dead: NDArray[np.int64]) -> NDArray[np.uint8]:
    inside = dead - segment.first_ordinal
    inside = inside[(inside >= 0) & (inside < segment.documents)]
    if not inside.size:
        return ALL_ALIVE
    alive = np.ones(segment.documents, dtype=np.uint8)
    alive[inside] = 0
    return alive
