"""Search on a torch device: the segments' own arrays, copied as they are, exact as on the CPU.

Segments of a shard whose ordinals follow on each other become one run of blocks, so a batch of
queries costs a few launches per shard however many segments there are. Nothing is converted; only
offsets into joined arrays are moved up. Answers of runs and shards merge as ranking keys on the
device, and everything returns to the host in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.device import find_device
from ...core.errors import UnavailableError
from ...core.vectors import ImpactBatch
from ...kernels.runtime.transfer import Clock, fetch, upload
from ...kernels.score.layout import Layout
from ...kernels.score.search import WORKSPACE_BYTES, Found, search_blocks, warm_up
from ...kernels.score.types import SLOT_TERMS, Postings, Queries
from ...kernels.select.api import merge_keys
from ..storage.manifest import IndexManifest
from ..storage.wide import ONE_BYTE, split_queries
from .searcher import Mask, SearchResult
from .snapshot import OpenSegment, Shard


@dataclass(frozen=True)
class _Run:
    """Segments with consecutive ordinals.

    Attributes:
        postings: their blocks.
        live: uint8 [blocks * block_size], 1 where a document is live; None if nothing is deleted.
        first_ordinal: ordinal of the first block's first document.
        shard: the shard's number.
    """

    postings: Postings
    live: Tensor | None
    first_ordinal: int
    shard: int


class DeviceSearcher:
    """Shards of one index on one device. Safe to use from many threads at once.

    Attributes:
        device: where they are.
        nbytes: device memory in bytes of each part: "postings", "columns", "rows", "live".
        shard_count: how many shards the index has, open here or not.
    """

    def __init__(
        self,
        device: torch.device,
        runs: Sequence[_Run],
        nbytes: dict[str, int],
        index: IndexManifest,
        workspace: int,
    ) -> None:
        self.device, self.nbytes, self.shard_count = device, nbytes, index.shard_count
        self._index = index
        self._runs, self._workspace = tuple(runs), workspace

    @classmethod
    def load(
        cls,
        shards: Sequence[Shard],
        index: IndexManifest,
        device: str,
        *,
        workspace: int = WORKSPACE_BYTES,
        free: int | None = None,
    ) -> DeviceSearcher:
        """Copy shards to a device, if they fit.

        Args:
            shards: open shards; the copy does not need them afterwards.
            index: that the shards belong to.
            device: "cuda", "cuda:1" ..., or "cpu" for the plain torch scorer.
            workspace: bytes that a search may take for sums and candidates.
            free: free bytes of device memory; None asks the device.

        Raises:
            InputError: no such device.
            UnavailableError: more bytes than are free.
        """
        place, block_size = torch.device(find_device(device)), index.block_size
        runs = [
            (shard.number, run)
            for shard in shards
            for run in _consecutive(shard.segments, block_size)
        ]
        layouts = [Layout.of_segments([one.segment for one in run], block_size) for _, run in runs]
        nbytes = {"postings": 0, "columns": 0, "rows": 0, "live": 0}
        for (_, run), layout in zip(runs, layouts, strict=True):
            for part, size in layout.nbytes.items():
                nbytes[part] += size
            if any(len(one.live) for one in run):
                nbytes["live"] += sum(len(one.segment) for one in run) * block_size
        if free is None and place.type == "cuda":
            free = torch.cuda.mem_get_info(place)[0]
        needed = sum(nbytes.values()) + workspace
        if free is not None and needed > free:
            parts = ", ".join(
                f"{name} {_gib(size)}" for name, size in {**nbytes, "workspace": workspace}.items()
            )
            raise UnavailableError(
                f"the index needs {_gib(needed)} GiB on {place} ({parts}), {_gib(free)} GiB are "
                "free; serve fewer shards per device, build it with fewer documents or terms, or "
                "score on the CPU"
            )
        loaded = [
            _Run(
                layout.load([one.segment for one in run], place),
                _live(run, block_size, place),
                run[0].manifest.first_ordinal,
                number,
            )
            for (number, run), layout in zip(runs, layouts, strict=True)
        ]
        if place.type == "cuda":
            for one in loaded:
                warm_up(one.postings)
        return cls(place, loaded, nbytes, index, workspace)

    def search(self, queries: ImpactBatch, k: int, mask: Mask | None = None) -> SearchResult:
        """Return the k best documents of each query; see :class:`.searcher.Searcher`."""
        clock = Clock(self.device)
        if self._index.max_impact > ONE_BYTE:
            queries = split_queries(queries, self._index.vocabulary_size)
        found = self.search_tensors(Queries.from_impacts(queries, self.device), k, clock, mask)
        return self.result(
            *fetch(found.keys, found.counts, found.matched, found.postings), clock=clock
        )

    def search_tensors(
        self, queries: Queries, k: int, clock: Clock, mask: Mask | None = None
    ) -> Found:
        """Search without leaving the device and without waiting for it.

        Args:
            queries: checked, on the device; of :meth:`queries_from_rows` or split by
                :func:`csplade.index.storage.wide.split_queries`.
            k, mask: as for :meth:`search`.
            clock: gets the marks of the stages.
        """
        found = [
            search_blocks(
                queries,
                run.postings,
                k,
                mask=self._allowed(run, mask),
                first_ordinal=run.first_ordinal,
                shard=run.shard,
                shards=self.shard_count,
                workspace=self._workspace,
                mark=clock.mark,
            )
            for run in self._runs
        ]
        if len(found) != 1:
            none = torch.zeros((len(queries), 0), dtype=torch.int64, device=self.device)
            keys, counts = merge_keys([none, *(one.keys for one in found)], k)
            matched, postings = none.sum(1), none.sum(1)
            for one in found:
                matched, postings = matched + one.matched, postings + one.postings
            found = [Found(keys, counts, matched, postings)]
        clock.mark("merge")
        return found[0]

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

    def _allowed(self, run: _Run, mask: Mask | None) -> Tensor | None:
        """Return which of the run's places are live and inside the mask; None for all."""
        if mask is None:
            return run.live
        places = run.postings.blocks * run.postings.block_size
        inside = mask.shards[run.shard][run.first_ordinal : run.first_ordinal + places]
        allowed = upload(np.pad(inside.astype(np.uint8), (0, places - len(inside))), self.device)
        return allowed if run.live is None else allowed & run.live


def _consecutive(segments: Sequence[OpenSegment], block_size: int) -> list[list[OpenSegment]]:
    """Return groups of segments whose blocks begin ``block_size`` ordinals after each other."""
    runs: list[list[OpenSegment]] = []
    following = -1
    for one in segments:
        if not len(one.segment):
            continue
        if one.manifest.first_ordinal != following:
            runs.append([])
        runs[-1].append(one)
        following = one.manifest.first_ordinal + len(one.segment) * block_size
    return runs


def _live(run: Sequence[OpenSegment], block_size: int, device: torch.device) -> Tensor | None:
    """Return :attr:`_Run.live` of the segments."""
    if not any(len(one.live) for one in run):
        return None
    live = np.ones(sum(len(one.segment) for one in run) * block_size, dtype=np.uint8)
    for one in run:
        first = one.manifest.first_ordinal - run[0].manifest.first_ordinal
        live[first : first + len(one.live)] = one.live
    return upload(live, device)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"
