"""Searches of a device, recorded by size, so that one launch replays all of their kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ...core.vectors import ImpactBatch
from ...kernels.runtime.graph import Recorder, Recording
from ...kernels.runtime.transfer import Download, Packed, pack, refill
from ...kernels.score.search import Found
from ...kernels.score.types import SLOT_TERMS, Queries

# A search takes the smallest recorded size that holds it; a larger one runs kernel by kernel.
BATCHES = (1, 2, 4, 8, 16, 32, 64)
TERMS = (64, 256)
LIMITS = (10, 100, 1000)


@dataclass(frozen=True, order=True)
class SearchSize:
    """What a recorded search holds at most.

    Attributes:
        queries: queries of the batch.
        terms: terms of each query.
        k: hits of each query.
    """

    queries: int
    terms: int
    k: int


def fitting(sizes: Iterable[int], value: int) -> int | None:
    """Return the smallest of some sizes that holds a value, None if there is none."""
    return min((size for size in sizes if size >= value), default=None)


class QueryBuffer:
    """Queries of one size at addresses that do not change.

    Attributes:
        queries: int64 and int32 views of one piece of device memory.
    """

    def __init__(self, count: int, terms: int, device: torch.device) -> None:
        self._count = count
        self._bytes = torch.zeros(
            8 * (count + 1) + 8 * count * terms, dtype=torch.uint8, device=device
        )
        entries = self._bytes[8 * (count + 1) :].view(torch.int32).view(2, -1)
        indptr = self._bytes[: 8 * (count + 1)].view(torch.int64)
        longest = -(-terms // SLOT_TERMS) * SLOT_TERMS
        self.queries = Queries(indptr, entries[0], entries[1], longest)

    def write(self, batch: ImpactBatch) -> None:
        """Overwrite the queries, in one copy; those beyond the batch have no terms."""
        content = np.zeros(len(self._bytes), np.uint8)
        indptr = content[: 8 * (self._count + 1)].view(np.int64)
        entries = content[8 * (self._count + 1) :].view(np.int32).reshape(2, -1)
        indptr[: len(batch) + 1], indptr[len(batch) + 1 :] = batch.indptr, batch.indptr[-1]
        entries[0, : len(batch.terms)], entries[1, : len(batch.terms)] = batch.terms, batch.impacts
        refill(self._bytes, content)

    def take(self, queries: Queries) -> None:
        """Overwrite the queries by as many others on the device."""
        self.queries.indptr.copy_(queries.indptr)
        size = min(len(queries.terms), len(self.queries.terms))
        self.queries.terms[:size].copy_(queries.terms[:size])
        self.queries.impacts[:size].copy_(queries.impacts[:size])


class RecordedSearches:
    """Searches recorded by size.

    Args:
        search: Finds the k best documents of queries on a device, without waiting for it.
        device: That the queries are on.
        recorder: Of that device.
    """

    def __init__(
        self,
        search: Callable[[Queries, int], Found],
        device: torch.device,
        recorder: Recorder,
    ) -> None:
        self._search, self._device, self._recorder = search, device, recorder
        self._buffers: dict[tuple[int, int], QueryBuffer] = {}
        self._recordings: dict[SearchSize, Recording[Packed]] = {}

    def record(self, sizes: Iterable[SearchSize]) -> None:
        """Record searches, the largest first, so that the others fit into its memory."""
        for size in sorted(set(sizes) - set(self._recordings), reverse=True):
            self._recordings[size] = self._recorder.record(partial(self._answer, size))

    def _answer(self, size: SearchSize) -> Packed:
        found = self._search(self.buffer(size.queries, size.terms).queries, size.k)
        return pack(found.keys, found.counts, found.matched, found.postings)

    def buffer(self, count: int, terms: int) -> QueryBuffer:
        """Return the queries that recordings of a size read."""
        key = count, terms
        if key not in self._buffers:
            self._buffers[key] = QueryBuffer(count, terms, self._device)
        return self._buffers[key]

    def size(self, count: int, terms: int, k: int) -> SearchSize | None:
        """Return the recorded size that a search takes; None where none holds it."""
        batch = fitting(BATCHES, count)
        return min(
            (
                size
                for size in self._recordings
                if size.queries == batch and size.terms >= terms and size.k >= k
            ),
            default=None,
        )

    def replay(self, size: SearchSize) -> Download:
        """Enqueue a recorded search of what its buffer holds, and the download of the answer."""
        recording = self._recordings[size]
        recording.replay()
        return recording.outputs.download()
