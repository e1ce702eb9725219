"""Search on torch devices: the segments' own arrays, copied as they are, exact as on the CPU.

A shard is one table of blocks, whatever its segments, their gaps and their short blocks, so a batch
of queries costs a few launches per shard. Shards may lie on several devices: all of them search at
the same time, and the first one merges. Answers merge as ranking keys on the device, and everything
returns to the host in one copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.errors import UnavailableError
from ...core.vectors import ImpactBatch, offsets
from ...kernels.runtime.transfer import Clock, fetch, upload
from ...kernels.score.layout import Layout
from ...kernels.score.search import WORKSPACE_BYTES, Found, search_blocks, warm_up
from ...kernels.score.types import SLOT_TERMS, Postings, Queries
from ..storage.manifest import IndexManifest
from ..storage.wide import ONE_BYTE, split_queries
from .searcher import SearchResult, Selection, Wanted, always
from .snapshot import OpenSegment, Shard


@dataclass(frozen=True, eq=False)
class _Part:
    """One shard on its device.

    Attributes:
        shard: its number.
        postings: its blocks.
        counts: documents of each block.
        live: uint8 [blocks * block_size], 1 where a document is live; None if nothing is deleted.
        segments: its segments on the host, in the order of the blocks.
    """

    shard: int
    postings: Postings
    counts: NDArray[np.int32]
    live: Tensor | None
    segments: Sequence[OpenSegment]


class DeviceSearcher:
    """Shards of one index on one or several devices. Safe to use from many threads at once.

    Attributes:
        device: the first device: there queries come in and answers are merged.
        devices: all of them, in the order given.
        nbytes: device memory in bytes of each part: "postings", "columns", "rows", "arrivals",
            "live".
        shard_count: how many shards the index has, open here or not.
    """

    def __init__(
        self,
        devices: Sequence[torch.device],
        parts: Sequence[_Part],
        nbytes: dict[str, int],
        index: IndexManifest,
        workspace: int,
    ) -> None:
        self.device, self.devices = devices[0], tuple(devices)
        self.nbytes, self.shard_count = nbytes, index.shard_count
        self._index = index
        self._parts, self._workspace = tuple(parts), workspace
        # Whoever enqueues a search takes the workspace; the next search on the stream reuses it.
        self._enqueueing = Lock()

    @classmethod
    def load(
        cls,
        shards: Sequence[Shard],
        index: IndexManifest,
        devices: Sequence[str],
        *,
        workspace: int = WORKSPACE_BYTES,
        free: Sequence[int] | None = None,
    ) -> DeviceSearcher:
        """Copy shards to devices, if they fit: the largest first, each to the least filled device.

        Args:
            shards: open shards.
            index: that the shards belong to.
            devices: canonical names, "cuda:0" ..., or "cpu" for the plain torch scorer.
            workspace: bytes that a search may take on each device for sums and candidates.
            free: free bytes of memory of each device; None asks the devices.

        Raises:
            UnavailableError: more bytes than are free.
        """
        places = [torch.device(name) for name in devices]
        held = {shard.number: segments for shard in shards if (segments := _filled(shard))}
        layouts = {
            number: Layout.of_segments([one.segment for one in segments], index.block_size)
            for number, segments in held.items()
        }
        sizes = {
            number: {**layout.nbytes, "live": _live_bytes(held[number], index.block_size)}
            for number, layout in layouts.items()
        }
        homes = _spread({number: sum(parts.values()) for number, parts in sizes.items()}, places)
        for turn, place in enumerate(places):
            here = [sizes[number] for number, home in homes.items() if home == turn]
            room = free[turn] if free is not None else _free_bytes(place)
            _check_fits(place, {**_sum(here), "workspace": workspace}, room)
        parts = [
            _Part(
                number,
                layout.load(
                    [one.segment for one in held[number]],
                    np.concatenate([one.ordinals for one in held[number]]) * index.shard_count
                    + number,
                    places[homes[number]],
                ),
                _counts(held[number]),
                _live(held[number], index.block_size, places[homes[number]]),
                held[number],
            )
            for number, layout in layouts.items()
        ]
        for part in parts:
            if part.postings.device.type == "cuda":
                warm_up(part.postings)
        return cls(places, parts, _sum(list(sizes.values())), index, workspace)

    def search(
        self, queries: ImpactBatch, k: int, mask: Selection | None = None, wanted: Wanted = always
    ) -> SearchResult:
        """Return the k best documents of each query; see :class:`.searcher.Searcher`."""
        clock = Clock(self.device)
        if self._index.max_impact > ONE_BYTE:
            queries = split_queries(queries, self._index.vocabulary_size)
        asked = Queries.from_impacts(queries, self.device)
        found = self.search_tensors(asked, k, clock, mask, wanted)
        return self.result(
            *fetch(found.keys, found.counts, found.matched, found.postings), clock=clock
        )

    def search_tensors(
        self,
        queries: Queries,
        k: int,
        clock: Clock,
        mask: Selection | None = None,
        wanted: Wanted = always,
    ) -> Found:
        """Search without leaving the devices and without waiting for them.

        Args:
            queries: checked, on the first device; of :meth:`queries_from_rows` or split by
                :func:`csplade.index.storage.wide.split_queries`.
            k, mask: as for :meth:`search`.
            wanted: the same; a shard is left out when nobody waits for any query.
            clock: gets the marks of the stages on the first device.
        """
        with self._enqueueing:
            asked = {place: queries.to(place) for place in dict.fromkeys(self.devices)}
            found = [
                search_blocks(
                    asked[part.postings.device],
                    part.postings,
                    k,
                    mask=self._allowed(part, mask),
                    workspace=self._workspace,
                    mark=clock.mark if part.postings.device == self.device else _unmarked,
                ).to(self.device)
                for part in self._parts
                if not len(queries) or any(map(wanted, range(len(queries))))
            ]
        answer = Found.joined(found, k) if found else Found.nothing(len(queries), k, self.device)
        clock.mark("merge")
        return answer

    def queries_from_rows(self, terms: Tensor, impacts: Tensor, counts: Tensor) -> Queries:
        """Return padded rows as queries of this index, without waiting for the device.

        Args:
            terms: int32 [n, K], each row's terms first and ascending.
            impacts: int32 [n, K].
            counts: int32 [n], entries of each row.
        """
        n, width = terms.shape
        columns = torch.arange(width, device=terms.device)
        inside = (columns < counts[:, None]).reshape(-1)
        split = self._index.max_impact > ONE_BYTE
        lengths = counts.to(torch.int64) * (2 if split else 1)
        indptr = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        size = n * width * (2 if split else 1)
        parts = [(terms, impacts, indptr[:-1, None] + columns)]
        if split:
            high = indptr[:-1, None] + counts[:, None] + columns
            parts.append((terms + self._index.vocabulary_size, ONE_BYTE * impacts, high))
        # Padding goes to one place behind the last entry.
        joined = torch.zeros((2, size + 1), dtype=torch.int32, device=terms.device)
        for part_terms, part_impacts, places in parts:
            places = torch.where(inside, places.reshape(-1), size)
            joined[0].scatter_(0, places, part_terms.reshape(-1))
            joined[1].scatter_(0, places, part_impacts.reshape(-1))
        longest = max(width, 1) * (2 if split else 1)
        return Queries(indptr, joined[0], joined[1], -(-longest // SLOT_TERMS) * SLOT_TERMS)

    def result(
        self,
        keys: NDArray[np.int64],
        counts: NDArray[np.int32],
        matched: NDArray[np.int64],
        postings: NDArray[np.int64],
        *,
        clock: Clock,
    ) -> SearchResult:
        """Return the result of :meth:`search_tensors` from its tensors, fetched to the host."""
        ranked = [row[:count] for row, count in zip(keys, counts, strict=True)]
        timings = {"score": 0, "select": 0, "merge": 0, **clock.read()}
        return SearchResult.from_keys(ranked, self.shard_count, matched, postings, timings)

    def _allowed(self, part: _Part, mask: Selection | None) -> Tensor | None:
        """Return which of the part's places are live and inside the mask; None for all."""
        if mask is None:
            return part.live
        allowed = mask.keep(part, lambda: _inside(part, mask))
        return allowed if part.live is None else allowed & part.live


def _filled(shard: Shard) -> list[OpenSegment]:
    """Return the segments that hold blocks, in ascending order of their ordinals."""
    segments = [one for one in shard.segments if len(one.ordinals)]
    return sorted(segments, key=lambda one: int(one.ordinals[0]))


def _spread(sizes: Mapping[int, int], places: Sequence[torch.device]) -> dict[int, int]:
    """Return for each shard which of the places it goes to."""
    filled, homes = [0] * len(places), {}
    for number in sorted(sizes, key=lambda number: -sizes[number]):
        homes[number] = filled.index(min(filled))
        filled[homes[number]] += sizes[number]
    return homes


def _sum(sizes: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Return the bytes of each part, of all shards together."""
    names = ("postings", "columns", "rows", "arrivals", "live")
    return {name: sum(one[name] for one in sizes) for name in names}


def _free_bytes(place: torch.device) -> int | None:
    return torch.cuda.mem_get_info(place)[0] if place.type == "cuda" else None


def _check_fits(place: torch.device, sizes: Mapping[str, int], free: int | None) -> None:
    needed = sum(sizes.values())
    if free is None or needed <= free:
        return
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in sizes.items())
    raise UnavailableError(
        f"the index needs {_gib(needed)} GiB on {place} ({parts}), {_gib(free)} GiB are free; "
        "spread its shards over more devices, build it with fewer documents or terms, or score on "
        "the CPU"
    )


def _counts(segments: Sequence[OpenSegment]) -> NDArray[np.int32]:
    """Return the documents of each block."""
    return np.concatenate([one.segment.block_documents for one in segments])


def _live_bytes(segments: Sequence[OpenSegment], block_size: int) -> int:
    if not any(len(one.live) for one in segments):
        return 0
    return sum(len(one.segment) for one in segments) * block_size


def _live(segments: Sequence[OpenSegment], block_size: int, device: torch.device) -> Tensor | None:
    """Return :attr:`_Part.live` of the segments."""
    if not any(len(one.live) for one in segments):
        return None
    live = [one.live if len(one.live) else np.ones_like(one.ordinals, np.uint8) for one in segments]
    return upload(_by_place(np.concatenate(live), _counts(segments), block_size), device)


def _inside(part: _Part, mask: Selection) -> Tensor:
    """Return which of the part's places are inside the mask, on its device."""
    inside = np.concatenate([mask.of(part.shard, one) for one in part.segments])
    places = _by_place(inside.view(np.uint8), part.counts, part.postings.block_size)
    return upload(places, part.postings.device)


def _by_place(
    values: NDArray[np.uint8], counts: NDArray[np.int32], block_size: int
) -> NDArray[np.uint8]:
    """Return one value per place of every block, 0 where there is no document.

    Args:
        values: uint8 [documents], by position.
        counts: documents of each block.
        block_size: places of each block.
    """
    places = np.zeros((len(counts), block_size), np.uint8)
    firsts = offsets(counts)
    for block, count in enumerate(counts.tolist()):
        places[block, :count] = values[firsts[block] : firsts[block + 1]]
    return places.reshape(-1)


def _unmarked(stage: str) -> None:
    """Leave a stage unmarked: it ran beside the first device's."""


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"
