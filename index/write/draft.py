"""The next snapshot, made beside the current one: what did not change is shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..read.cpu import ScoringThreads
from ..read.shard import OpenSegment, Shard
from ..read.snapshot import Snapshot
from ..read.statistics import TermStatistics
from .log import Changes
from .tail import merged, new_parts, small_merge


def after_commit(now: Snapshot, changes: Changes, threads: ScoringThreads) -> Snapshot:
    """Return the snapshot after a commit.

    Args:
        now: the current one.
        changes: of the commit.
        threads: score on the CPU.

    Raises:
        UnavailableError: the device has no memory left.
    """
    index, shards = now.manifest, dict(now.shards)
    for number, ordinals in changes.removed.items():
        shards[number] = _without(shards[number], ordinals)
    for number, rows in changes.added.items():
        shard = shards[number]
        parts = new_parts(rows, index)
        tail = (*shard.tail, *parts)
        while (few := small_merge(tail, index.block_size)) is not None:
            together = merged(tail[few], index.block_size)
            if len(together) >= few.stop - few.start:
                break
            tail = (*tail[: few.start], *together, *tail[few.stop :])
        sealed = shard.segments[: len(shard.manifest.segments)]
        shards[number] = shard.holding((*sealed, *tail))
    return derived(
        now, shards, threads, changes.generation, changes.max_impact, _statistics(now, changes)
    )


def derived(
    now: Snapshot,
    shards: Mapping[int, Shard],
    threads: ScoringThreads,
    generation: int | None = None,
    max_impact: int | None = None,
    statistics: TermStatistics | None = None,
) -> Snapshot:
    """Return a snapshot with other shards, searched where ``now`` is; None keeps a value.

    Raises:
        UnavailableError: the device has no memory left.
    """
    found = Snapshot(
        now.manifest,
        list(shards.values()),
        now.generation if generation is None else generation,
        now.manifest.max_impact if max_impact is None else max_impact,
        threads,
        now.filters,
        statistics,
    )
    if now.tensors is not None:
        found.tensors = now.tensors.following(list(shards.values()), found.manifest)
    return found


def _without(shard: Shard, ordinals: Sequence[int]) -> Shard:
    """Return the shard with some live documents deleted."""
    changed = {id(one): one.without(places) for one, _, places in shard.locate(np.array(ordinals))}
    return shard.holding([changed.get(id(one), one) for one in shard.segments])


def replaced(
    shard: Shard, old: Sequence[OpenSegment], new: Sequence[OpenSegment]
) -> tuple[OpenSegment, ...] | None:
    """Return the shard's segments with ``new`` in place of neighbours.

    ``new`` was made of the live documents of ``old`` when it was; those that were deleted since are
    deleted in the result. None if the shard does not have the neighbours any more.
    """
    places = {id(one.segment): place for place, one in enumerate(shard.segments)}
    start = places.get(id(old[0].segment))
    if start is None:
        return None
    current = shard.segments[start : start + len(old)]
    if [id(one.segment) for one in current] != [id(one.segment) for one in old]:
        return None
    nothing = np.empty(0, dtype=bool)
    alive = np.concatenate([nothing, *(c.kept[o.kept] for c, o in zip(current, old, strict=True))])
    result, first = [], 0
    for one in new:
        gone = np.flatnonzero(~alive[first : first + len(one)])
        result.append(one.without(gone) if len(gone) else one)
        first += len(one)
    return (*shard.segments[:start], *result, *shard.segments[start + len(old) :])


def _statistics(now: Snapshot, changes: Changes) -> TermStatistics | None:
    """Return the counts after a commit, if those before it are there and are needed."""
    if now.manifest.query_modifier != "idf" or "statistics" not in vars(now):
        return None
    gone = [
        now.shards[number].store.vectors(ordinals).terms
        for number, ordinals in changes.removed.items()
    ]
    come = [row.terms for rows in changes.added.values() for row in rows]
    added = sum(map(len, changes.added.values())) - sum(map(len, changes.removed.values()))
    return now.statistics.changed(come, gone, added)
