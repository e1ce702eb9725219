"""Place shards on devices and copy them there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.errors import UnavailableError
from ...core.vectors import offsets
from ...kernels.runtime.memory import WorkingMemory, free_bytes
from ...kernels.runtime.transfer import upload
from ...kernels.score.layout import Layout
from ...kernels.score.types import Postings
from ..storage.manifest import IndexManifest
from .searcher import Selection
from .shard import OpenSegment, Shard

# Blocks of the tail up to these sizes share a part; files do, and larger blocks up to a full one.
SHARED_DOCUMENTS = (64, 1024)
FILE, FULL = -1, len(SHARED_DOCUMENTS) + 1


@dataclass(frozen=True, eq=False)
class Part:
    """A shard, or some of its segments, on a device.

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

    @classmethod
    def load(
        cls,
        shard: int,
        segments: Sequence[OpenSegment],
        layout: Layout,
        index: IndexManifest,
        device: torch.device,
    ) -> Part:
        """Copy segments that were laid out to a device."""
        ordinals = np.concatenate([one.ordinals for one in segments]).astype(np.int64)
        postings = layout.load(
            [one.segment for one in segments], ordinals * index.shard_count + shard, device
        )
        live = _live(segments, layout.block_size, device)
        return cls(shard, postings, _counts(segments), live, segments)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes on the device."""
        postings = self.postings
        return {
            "postings": postings.locals.nbytes + postings.impacts.nbytes,
            "columns": postings.columns.nbytes,
            "rows": postings.rows.nbytes + postings.starts.nbytes + postings.lengths.nbytes,
            "arrivals": postings.arrivals.nbytes + postings.frames.nbytes,
            "live": 0 if self.live is None else self.live.nbytes,
        }

    def at(self, segments: Sequence[OpenSegment]) -> Part:
        """Return the part at a later snapshot: of the same segments more documents are deleted."""
        pairs = list(zip(segments, self.segments, strict=True))
        if all(one.live is other.live for one, other in pairs):
            return replace(self, segments=segments)
        live = _live(segments, self.postings.block_size, self.postings.device)
        return replace(self, segments=segments, live=live)

    def inside(self, mask: Selection) -> Tensor:
        """Return which places are inside the mask, uint8 [blocks * block_size] on the device."""
        inside = np.concatenate([mask.of(self.shard, one) for one in self.segments])
        places = by_place(inside.view(np.uint8), self.counts, self.postings.block_size)
        return upload(places, self.postings.device)


@dataclass(frozen=True)
class Placement:
    """Shards of an index, laid out for their devices.

    Attributes:
        index: that the shards belong to.
        devices: where they go.
        held: the filled segments of each shard, by its number.
        layouts: of each shard.
        homes: which of the devices each shard goes to.
    """

    index: IndexManifest
    devices: tuple[torch.device, ...]
    held: dict[int, list[OpenSegment]]
    layouts: dict[int, Layout]
    homes: dict[int, int]

    @classmethod
    def of(cls, shards: Sequence[Shard], index: IndexManifest, devices: Sequence[str]) -> Placement:
        """Lay shards out, the largest first, each for the least filled device.

        Args:
            shards: open shards.
            index: that they belong to.
            devices: canonical names, "cuda:0" ..., or "cpu" for the plain torch scorer.
        """
        held = {shard.number: segments for shard in shards if (segments := _filled(shard))}
        layouts = {
            number: Layout.of_segments([one.segment for one in segments], index.block_size)
            for number, segments in held.items()
        }
        sizes = {number: sum(layout.nbytes.values()) for number, layout in layouts.items()}
        homes = _spread(sizes, len(devices))
        return cls(index, tuple(map(torch.device, devices)), held, layouts, homes)

    def is_of(self, shards: Sequence[Shard]) -> bool:
        """Return whether the shards still are what was laid out."""
        now = {shard.number: segments for shard in shards if (segments := _filled(shard))}
        return now.keys() == self.held.keys() and all(
            len(now[number]) == len(held)
            and all(one is other for one, other in zip(now[number], held, strict=True))
            for number, held in self.held.items()
        )

    @property
    def nbytes(self) -> dict[str, int]:
        """Return the bytes of each part, on all devices together."""
        return self._sum(list(self.held))

    def bytes_on(self, name: str) -> int:
        """Return the bytes of the shards that go to a device, "cuda:0" ..."""
        here = [number for number, home in self.homes.items() if str(self.devices[home]) == name]
        return sum(self._sum(here).values())

    def check(self, memory: WorkingMemory, free: Sequence[int] | None = None) -> None:
        """Check that every device holds its shards and the working memory.

        Args:
            memory: needed on each device.
            free: free bytes of each device; None asks the devices.

        Raises:
            UnavailableError: one does not.
        """
        for turn, device in enumerate(self.devices):
            here = [number for number, home in self.homes.items() if home == turn]
            room = free_bytes(device) if free is None else free[turn]
            check_fits(device, {**self._sum(here), "working memory": memory.total}, room)

    def load(self) -> list[Part]:
        """Copy the shards to their devices."""
        return [
            Part.load(
                number, segments, self.layouts[number], self.index, self.devices[self.homes[number]]
            )
            for number, segments in self.held.items()
        ]

    def _sum(self, numbers: Sequence[int]) -> dict[str, int]:
        block_size = self.index.block_size
        sizes = [
            {**self.layouts[number].nbytes, "live": _live_bytes(self.held[number], block_size)}
            for number in numbers
        ]
        names = ("postings", "columns", "rows", "arrivals", "live")
        return {name: sum(one[name] for one in sizes) for name in names}


def following(
    parts: Sequence[Part], shard: Shard, index: IndexManifest, home: torch.device
) -> tuple[list[Part], list[Callable[[], Part]], dict[str, int]]:
    """Return a shard's parts at a later snapshot: those that stay, those to load, their bytes.

    Files that came together stay one part. Blocks of the tail share a part with others of their
    size, which is made anew when one of them changes; full ones have parts of their own.

    Args:
        parts: of the shard, before.
        shard: now.
        index: that it belongs to.
        home: device of new parts.
    """
    segments = _filled(shard)
    places = {id(one.segment): place for place, one in enumerate(segments)}
    stay: list[Part] = []
    taken: set[int] = set()
    for part in parts:
        first = places.get(id(part.segments[0].segment))
        if first is None:
            continue
        now = segments[first : first + len(part.segments)]
        same = [id(one.segment) for one in now] == [id(one.segment) for one in part.segments]
        shared = [one for one in segments if _size(one, index) == _size(now[0], index)]
        alone = _size(now[0], index) in (FILE, FULL)
        if same and (alone or len(shared) == len(now)):
            stay.append(part.at(now))
            taken |= {id(one.segment) for one in now}
    groups: dict[int, list[OpenSegment]] = {}
    for one in segments:
        if id(one.segment) not in taken:
            size = _size(one, index)
            groups.setdefault(-id(one.segment) if size == FULL else size, []).append(one)
    load: list[Callable[[], Part]] = []
    needed: dict[str, int] = {}
    for group in groups.values():
        most = max(int(one.segment.block_documents.max()) for one in group)
        width = min(index.block_size, 1 << (most - 1).bit_length())
        layout = Layout.of_segments([one.segment for one in group], width)
        for part_name, size in {**layout.nbytes, "live": _live_bytes(group, width)}.items():
            needed[part_name] = needed.get(part_name, 0) + size
        load.append(partial(Part.load, shard.number, group, layout, index, home))
    return stay, load, needed


def _size(one: OpenSegment, index: IndexManifest) -> int:
    """Return what tells apart the segments that may share a part."""
    if one.manifest is not None:
        return FILE
    if len(one) == index.block_size:
        return FULL
    return sum(len(one) > most for most in SHARED_DOCUMENTS)


def _filled(shard: Shard) -> list[OpenSegment]:
    """Return the segments that hold postings, in ascending order of their ordinals."""
    return [one for one in shard.segments if len(one.segment.locals)]


def _spread(sizes: Mapping[int, int], places: int) -> dict[int, int]:
    """Return for each shard which of so many places it goes to."""
    filled, homes = [0] * places, {}
    for number in sorted(sizes, key=lambda number: -sizes[number]):
        homes[number] = filled.index(min(filled))
        filled[homes[number]] += sizes[number]
    return homes


def check_fits(place: torch.device, sizes: Mapping[str, int], free: int | None) -> None:
    """Check that parts of so many bytes fit; raises UnavailableError."""
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
    """Return :attr:`Part.live` of the segments."""
    if not any(len(one.live) for one in segments):
        return None
    live = [one.live if len(one.live) else np.ones_like(one.ordinals, np.uint8) for one in segments]
    return upload(by_place(np.concatenate(live), _counts(segments), block_size), device)


def by_place(
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


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"
