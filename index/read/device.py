"""Search on torch devices: the segments' own arrays, copied as they are, exact as on the CPU.

A shard is one table of blocks, whatever its segments, their gaps and their short blocks, so a batch
of queries costs a few launches per shard. Shards may lie on several devices: all of them search at
the same time, and the first one merges. Answers merge as ranking keys on the device, and everything
returns to the host in one copy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.vectors import ImpactBatch
from ...kernels.runtime.graph import Recorder
from ...kernels.runtime.memory import WORKING_MEMORY, WorkingMemory, free_bytes
from ...kernels.runtime.transfer import Clock, Download, fetch, wait
from ...kernels.score.search import Found, search_blocks, warm_up
from ...kernels.score.types import SLOT_TERMS, Queries
from ..storage.manifest import IndexManifest
from ..storage.wide import ONE_BYTE, split_queries
from .placement import Part, Placement, check_fits, following
from .recorded import BATCHES, LIMITS, TERMS, RecordedSearches, SearchSize
from .searcher import SearchResult, Selection, Wanted, always
from .shard import Shard


def _unmarked(stage: str) -> None:
    """Leave a stage unmarked: it is recorded, or runs beside those of the first device."""


class DeviceSearcher:
    """Shards of one index on one or several devices. Safe to use from many threads at once.

    Attributes:
        device: the first device: there queries come in and answers are merged.
        devices: all of them, in the order given.
        nbytes: device memory in bytes of each part: "postings", "columns", "rows", "arrivals",
            "live".
        shard_count: how many shards the index has, open here or not.
        recorded: searches that are replayed; None where none are, see :meth:`record`.
        enqueueing: held while a search is enqueued, or a recording's inputs are written and
            replayed.
    """

    def __init__(
        self,
        devices: Sequence[torch.device],
        parts: Sequence[Part],
        nbytes: dict[str, int],
        index: IndexManifest,
        workspace: int,
    ) -> None:
        self.device, self.devices = devices[0], tuple(devices)
        self.nbytes, self.shard_count = nbytes, index.shard_count
        self._index = index
        self._parts, self._workspace = tuple(parts), workspace
        self.recorded: RecordedSearches | None = None
        # Whoever enqueues a search takes the workspace; the next search on the stream reuses it.
        self.enqueueing = Lock()

    @classmethod
    def load(
        cls,
        placement: Placement,
        memory: WorkingMemory = WORKING_MEMORY,
        *,
        free: Sequence[int] | None = None,
    ) -> DeviceSearcher:
        """Copy shards to the devices where they were placed, if they fit.

        Args:
            placement: of open shards; the copy does not need them afterwards.
            memory: what must be left for requests on each device; a search takes its share.
            free: free bytes of memory of each device; None asks the devices.

        Raises:
            UnavailableError: more bytes than are free.
        """
        placement.check(memory, free)
        parts = placement.load()
        for part in parts:
            warm_up(part.postings)
        return cls(placement.devices, parts, placement.nbytes, placement.index, memory.search)

    def following(self, shards: Sequence[Shard], index: IndexManifest) -> DeviceSearcher:
        """Return the searcher of a later snapshot; what both have is on the devices once.

        Its searches are not recorded.

        Raises:
            UnavailableError: more bytes than are free.
        """
        parts: list[Part] = []
        widths = {part.postings.width for part in self._parts}
        for shard in shards:
            held = [part for part in self._parts if part.shard == shard.number]
            home = held[0].postings.device if held else self.device
            stay, load, needed = following(held, shard, index, home)
            check_fits(home, needed, free_bytes(home))
            parts += stay
            for make in load:
                parts.append(part := make())
                if part.postings.width not in widths:
                    widths.add(part.postings.width)
                    warm_up(part.postings)
        nbytes = {name: sum(part.nbytes[name] for part in parts) for name in self.nbytes}
        later = DeviceSearcher(self.devices, parts, nbytes, index, self._workspace)
        later.enqueueing = self.enqueueing  # the snapshots share one workspace
        return later

    def search(
        self, queries: ImpactBatch, k: int, mask: Selection | None = None, wanted: Wanted = always
    ) -> SearchResult:
        """Return the k best documents of each query; see :class:`.searcher.Searcher`."""
        clock = Clock(self.device)
        if self.rows_per_term == 2:
            queries = split_queries(queries, self._index.vocabulary_size)
        if mask is None and (download := self._replayed(queries, k)) is not None:
            clock.mark("score")
            return self.result(*wait(download)[0], count=len(queries), k=k, clock=clock)
        asked = Queries.from_impacts(queries, self.device)
        found = self.search_tensors(asked, k, clock, mask, wanted)
        answer = fetch(found.keys, found.counts, found.matched, found.postings)
        return self.result(*answer, count=len(queries), k=k, clock=clock)

    @property
    def recordable(self) -> bool:
        """Whether searches can be recorded: those over several devices, or nothing, cannot."""
        return bool(self._parts) and len(set(self.devices)) == 1

    def record(self, recorder: Recorder, terms: Iterable[int] = TERMS) -> None:
        """Record searches of all sizes, for queries of so many terms at most, if they can be."""
        if not self.recordable:
            return
        if self.recorded is None:
            self.recorded = RecordedSearches(self._found, self.device, recorder)
        self.recorded.record(
            SearchSize(*size) for size in itertools.product(BATCHES, terms, LIMITS)
        )

    def _replayed(self, queries: ImpactBatch, k: int) -> Download | None:
        """Replay the recording that holds a search and enqueue the download; None if none does."""
        longest = int(np.diff(queries.indptr).max(initial=1))
        if self.recorded is None or not (size := self.recorded.size(len(queries), longest, k)):
            return None
        with self.enqueueing:
            self.recorded.buffer(size.queries, size.terms).write(queries)
            return self.recorded.replay(size)

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
        with self.enqueueing:
            found = self._found(queries, k, mask, wanted, clock.mark)
        clock.mark("merge")
        return found

    def _found(
        self,
        queries: Queries,
        k: int,
        mask: Selection | None = None,
        wanted: Wanted = always,
        mark: Callable[[str], None] = _unmarked,
    ) -> Found:
        asked = {place: queries.to(place) for place in dict.fromkeys(self.devices)}
        found = [
            search_blocks(
                asked[part.postings.device],
                part.postings,
                k,
                mask=self._allowed(part, mask),
                workspace=self._workspace,
                mark=mark if part.postings.device == self.device else _unmarked,
            ).to(self.device)
            for part in self._parts
            if not len(queries) or any(map(wanted, range(len(queries))))
        ]
        return Found.joined(found, k) if found else Found.nothing(len(queries), k, self.device)

    @property
    def rows_per_term(self) -> int:
        """Terms of the index that one term of a query asks for: 2 where impacts take two bytes."""
        return 2 if self._index.max_impact > ONE_BYTE else 1

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
        lengths = counts.to(torch.int64) * self.rows_per_term
        indptr = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        size = n * width * self.rows_per_term
        parts = [(terms, impacts, indptr[:-1, None] + columns)]
        if self.rows_per_term == 2:
            high = indptr[:-1, None] + counts[:, None] + columns
            parts.append((terms + self._index.vocabulary_size, ONE_BYTE * impacts, high))
        # Padding goes to one place behind the last entry.
        joined = torch.zeros((2, size + 1), dtype=torch.int32, device=terms.device)
        for part_terms, part_impacts, places in parts:
            places = torch.where(inside, places.reshape(-1), size)
            joined[0].scatter_(0, places, part_terms.reshape(-1))
            joined[1].scatter_(0, places, part_impacts.reshape(-1))
        longest = max(width, 1) * self.rows_per_term
        return Queries(indptr, joined[0], joined[1], -(-longest // SLOT_TERMS) * SLOT_TERMS)

    def result(
        self,
        keys: NDArray[np.int64],
        counts: NDArray[np.int32],
        matched: NDArray[np.int64],
        postings: NDArray[np.int64],
        *,
        count: int,
        k: int,
        clock: Clock,
    ) -> SearchResult:
        """Return the result of a search from its tensors, fetched to the host.

        A recorded search may hold more queries and hits than were asked for; they are left out.
        """
        lengths = np.minimum(counts[:count], k).tolist()
        ranked = [row[:length] for row, length in zip(keys, lengths, strict=False)]
        matched, postings = matched[:count], postings[:count]
        timings = {"score": 0, "select": 0, "merge": 0, **clock.read()}
        return SearchResult.from_keys(ranked, self.shard_count, matched, postings, timings)

    def _allowed(self, part: Part, mask: Selection | None) -> Tensor | None:
        """Return which of the part's places are live and inside the mask; None for all."""
        if mask is None:
            return part.live
        allowed = mask.keep(part.postings, lambda: part.inside(mask))
        return allowed if part.live is None else allowed & part.live
