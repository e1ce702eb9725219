"""The tail: segments of one block that have no file yet, merged so that few of them are searched.

A commit adds a part. Sixteen parts of a size become one of the next: up to 64 documents, up to
1,024, up to a full block. Merging leaves deleted documents out, and keeps the order of arrival.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...core.vectors import offsets
from ..read.fields import FieldColumns
from ..read.shard import ALL_LIVE, OpenSegment
from ..storage.blocks import make_block, regroup
from ..storage.documents import Rows
from ..storage.ids import ResidentIds
from ..storage.manifest import IndexManifest
from ..storage.segment import Segment
from ..storage.writable import NewRow

SMALL, MIDDLE = 64, 1024  # documents
FAN_IN = 16


def new_parts(rows: Sequence[NewRow], index: IndexManifest) -> tuple[OpenSegment, ...]:
    """Return rows of one commit as parts of the tail."""
    parts = []
    for first in range(0, len(rows), index.block_size):
        chunk = rows[first : first + index.block_size]
        ids = ResidentIds(row.document.id for row in chunk)
        fields = FieldColumns(len(ids), {}, ids)
        if index.fields:
            metadata = ((row.document.id, json.loads(row.metadata)) for row in chunk)
            fields = FieldColumns.of(metadata, index.fields, ids)
        stored = Rows(
            offsets([len(row.terms) for row in chunk]),
            np.concatenate([row.terms for row in chunk]),
            np.concatenate([row.impacts for row in chunk]),
        )
        parts.append(
            OpenSegment(
                Segment.from_blocks([make_block(stored, index.vocabulary_size)]),
                None,
                np.array([row.ordinal for row in chunk], dtype=np.uint32),
                np.broadcast_to(np.uint32(chunk[0].created), len(chunk)),
                fields,
                ALL_LIVE,
                0,
            )
        )
    return tuple(parts)


def small_merge(tail: Sequence[OpenSegment], block_size: int) -> slice | None:
    """Return the parts that a commit merges itself, in little time; None for none."""
    return _merge(tail, 0, SMALL, block_size)


def large_merge(tail: Sequence[OpenSegment], block_size: int) -> slice | None:
    """Return the parts that are to be merged in the background; None for none."""
    middle = _merge(tail, SMALL, MIDDLE, block_size)
    return middle or _merge(tail, MIDDLE, block_size, block_size)


def _merge(tail: Sequence[OpenSegment], keep: int, most: int, block_size: int) -> slice | None:
    """Return the last parts of at most ``most`` documents, if they are many or fill a block.

    Parts of at most ``keep`` documents at the end are left to the merge of smaller ones.
    """
    stop = len(tail)
    while stop and len(tail[stop - 1]) <= keep:
        stop -= 1
    start = stop
    while start and len(tail[start - 1]) <= most and len(tail[start - 1]) < block_size:
        start -= 1
    documents = sum(len(one) for one in tail[start:stop])
    if stop - start >= FAN_IN or (stop - start > 1 and documents >= block_size):
        return slice(start, stop)
    return None


def merged(parts: Sequence[OpenSegment], block_size: int) -> tuple[OpenSegment, ...]:
    """Return the live documents of some parts as few parts."""
    blocks = regroup(((one.segment, one.live) for one in parts), block_size)
    (ordinals, versions, fields), found, first = join_documents(parts), [], 0
    for block in blocks:
        places = slice(first, first + block.documents)
        inside = np.zeros(len(ordinals), dtype=bool)
        inside[places] = True
        found.append(
            OpenSegment(
                Segment.from_blocks([block]),
                None,
                ordinals[places].copy(),
                versions[places].copy(),
                _joined([(fields, inside)]),
                ALL_LIVE,
                0,
            )
        )
        first += block.documents
    return tuple(found)


def join_documents(
    parts: Sequence[OpenSegment],
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], FieldColumns]:
    """Return ordinals, versions and fields of the live documents of some parts."""
    kept = [one.kept for one in parts]
    nothing = np.empty(0, np.uint32)
    pairs = list(zip(parts, kept, strict=True))
    return (
        np.concatenate([nothing, *(one.ordinals[keep] for one, keep in pairs)]),
        np.concatenate([nothing, *(one.versions[keep] for one, keep in pairs)]),
        _joined([(one.fields, keep) for one, keep in pairs]),
    )


def _joined(parts: Sequence[tuple[FieldColumns, NDArray[np.bool_]]]) -> FieldColumns:
    return FieldColumns.join(parts, ResidentIds.join([(one.ids, keep) for one, keep in parts]))
