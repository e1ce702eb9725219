"""Write segments: of the tail when it is long, and again without documents that were deleted.

A segment is written aside; then the shard's manifest is replaced by one that names it. What reads
the old files goes on reading them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..read.shard import ALL_LIVE, OpenSegment, Shard
from ..storage.blocks import regroup
from ..storage.manifest import IndexManifest, ShardManifest
from ..storage.segment import Segment, write_segment
from .draft import replaced
from .tail import MIDDLE, join_documents

# A segment is rewritten if more than this share, and at least so many, of its documents are
# deleted; neighbours are joined if they are together less than half of a full segment.
DELETED_SHARE = 0.2
DELETED_DOCUMENTS = 1000


@dataclass(frozen=True)
class Rewrite:
    """Segments of a shard that become one file.

    Attributes:
        shard: as it was when this was planned.
        old: neighbours: all with files, or the first ones of the tail.
        generation: of that snapshot.
    """

    shard: Shard
    old: tuple[OpenSegment, ...]
    generation: int


def plan(
    shard: Shard, index: IndexManifest, generation: int, since: int | None = None
) -> Rewrite | None:
    """Return the next rewrite of a shard; None if nothing needs one.

    Args:
        shard: of the current snapshot.
        index: its manifest.
        generation: of the snapshot.
        since: everything that was there at this generation is sealed, and every document that was
            deleted removed; None for what pays only.
    """
    full = index.block_size * index.segment_blocks
    sealed = _sealed(shard.tail, index.block_size, full, since)
    if sealed:
        return Rewrite(shard, sealed, generation)
    files = shard.segments[: len(shard.manifest.segments)]
    for one, file in zip(files, shard.manifest.segments, strict=True):
        old = since is not None and file.generation < since
        if one.deleted > (0 if old else max(DELETED_SHARE * len(one), DELETED_DOCUMENTS - 1)):
            return Rewrite(shard, (one,), generation)
    for place, one in enumerate(files):
        stop, live = place + 1, len(one) - one.deleted
        while stop < len(files) and 2 * (live + len(files[stop]) - files[stop].deleted) < full:
            live += len(files[stop]) - files[stop].deleted
            stop += 1
        if stop - place > 1:
            return Rewrite(shard, files[place:stop], generation)
    return None


def _sealed(
    tail: Sequence[OpenSegment], block_size: int, full: int, since: int | None
) -> tuple[OpenSegment, ...]:
    """Return the first parts of the tail that fill a segment, or that are as old as ``since``."""
    documents, stop = 0, 0
    for one in tail:
        old = since is not None and one.versions[0] <= since
        if documents >= full or not (old or len(one) > min(MIDDLE, block_size - 1)):
            break
        documents, stop = documents + len(one), stop + 1
    return tuple(tail[:stop]) if since is not None or documents >= full else ()


def write(rewrite: Rewrite, index: IndexManifest, number: int) -> tuple[OpenSegment, ...]:
    """Write the live documents of a rewrite to a file; nothing, if there are none.

    Args:
        rewrite: what to write.
        index: that the shard belongs to.
        number: of the file in the shard's directory; no other file has had it.

    Raises:
        OSError: the disk is full or fails.
    """
    shard, old = rewrite.shard, rewrite.old
    blocks = regroup(((one.segment, one.live) for one in old), index.block_size)
    if not blocks:
        return ()
    segment = Segment.from_blocks(blocks)
    ordinals, versions, fields = join_documents(old)
    first, stop = _range(shard, old)
    path = shard.directory / f"segment-{number:06d}.safetensors"
    manifest = write_segment(path, segment, first, stop, rewrite.generation)
    return (OpenSegment(segment, manifest, ordinals, versions, fields, ALL_LIVE, 0),)


def _range(shard: Shard, old: Sequence[OpenSegment]) -> tuple[int, int]:
    """Return the ordinals that a rewrite is responsible for: its first, and the one after it."""
    first, last = old[0].manifest, old[-1].manifest
    if first is not None and last is not None:
        return first.first_ordinal, last.stop_ordinal
    return shard.manifest.sealed, int(old[-1].ordinals[-1]) + 1


def swapped(
    shard: Shard, rewrite: Rewrite, new: tuple[OpenSegment, ...], generation: int
) -> Shard | None:
    """Return the shard with what a rewrite gave; None if what it was made of is there no more.

    Args:
        shard: of the current snapshot.
        rewrite, new: what was planned, and written.
        generation: of the current snapshot.
    """
    segments = replaced(shard, rewrite.old, new)
    if segments is None:
        return None
    of_tail = rewrite.old[0].manifest is None
    sealed = _range(rewrite.shard, rewrite.old)[1] if of_tail else shard.manifest.sealed
    files = tuple(one.manifest for one in segments if one.manifest is not None)
    held = segments[: len(files)]
    manifest: ShardManifest = replace(
        shard.manifest,
        generation=generation,
        documents=sum(len(one) for one in held),
        postings=sum(one.postings for one in files),
        bytes=sum(one.bytes for one in files),
        segments=files,
        sealed=sealed,
    )
    return shard.holding(segments, manifest)
