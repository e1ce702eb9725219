"""Place shards on devices and copy them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from .snapshot import OpenSegment, Shard


@dataclass(frozen=True, eq=False)
class Part:
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
            _check_fits(device, {**self._sum(here), "working memory": memory.total}, room)

    def load(self) -> list[Part]:
        """Copy the shards to their devices."""
        parts = []
        for number, segments in self.held.items():
            device = self.devices[self.homes[number]]
            ordinals = np.concatenate([one.ordinals for one in segments]).astype(np.int64)
            postings = self.layouts[number].load(
                [one.segment for one in segments],
                ordinals * self.index.shard_count + number,
                device,
            )
            live = _live(segments, self.index.block_size, device)
            parts.append(Part(number, postings, _counts(segments), live, segments))
        return parts

    def _sum(self, numbers: Sequence[int]) -> dict[str, int]:
        block_size = self.index.block_size
        sizes = [
            {**self.layouts[number].nbytes, "live": _live_bytes(self.held[number], block_size)}
            for number in numbers
        ]
        names = ("postings", "columns", "rows", "arrivals", "live")
        return {name: sum(one[name] for one in sizes) for name in names}


def _filled(shard: Shard) -> list[OpenSegment]:
    """Return the segments that hold blocks, in ascending order of their ordinals."""
    segments = [one for one in shard.segments if len(one.ordinals)]
    return sorted(segments, key=lambda one: int(one.ordinals[0]))


def _spread(sizes: Mapping[int, int], places: int) -> dict[int, int]:
    """Return for each shard which of so many places it goes to."""
    filled, homes = [0] * places, {}
    for number in sorted(sizes, key=lambda number: -sizes[number]):
        homes[number] = filled.index(min(filled))
        filled[homes[number]] += sizes[number]
    return homes


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
