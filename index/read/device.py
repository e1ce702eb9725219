"""An open index on a torch device: the segments' own arrays copied as they lie, searched there,
exact as on the CPU.

Segments of a shard whose ordinals follow on each other become one run of blocks, so a batch of
queries costs a few launches per shard however many segments there are. Nothing is converted; only
offsets into joined arrays are moved up. Answers of runs and shards merge as keys on the device, and
everything comes back in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.device import find_device
from ...core.errors import UnavailableError
from ...core.vectors import ImpactBatch
from ...kernels.runtime.transfer import Clock, fetch, upload, upload_into
from ...kernels.score.api import Postings, Queries
from ...kernels.score.search import WORKSPACE_BYTES, Found, search_blocks
from ...kernels.select.api import merge_keys
from .snapshot import OpenSegment, Shard

DTYPES = {
    "block_documents": torch.int32,
    "block_term_indptr": torch.int64,
    "terms": torch.int32,
    "indptr": torch.int64,
    "locals": torch.uint16,
    "impacts": torch.uint8,
}


@dataclass(frozen=True)
class Answers:
    """What a search found, on the host.

    Attributes:
        keys: int64 [n, k], descending, see :mod:`.scorer`; row i holds ``counts[i]`` of them.
        counts: int32 [n].
        matched: int64 [n], living documents that share a term with the query.
        postings: int64 [n], postings read.
        timings: nanoseconds under "score", "select" and "merge"; on a GPU between events in its
            stream.
    """

    keys: NDArray[np.int64]
    counts: NDArray[np.int32]
    matched: NDArray[np.int64]
    postings: NDArray[np.int64]
    timings: dict[str, int]


@dataclass(frozen=True)
class _Run:
    """Segments with consecutive ordinals; ``alive`` uint8 [blocks * block_size], None if nothing is
    deleted.
    """

    postings: Postings
    alive: Tensor | None
    first_ordinal: int
    shard: int


class DeviceIndex:
    """Shards of one index on one device. Searching from several threads at once is safe.

    Attributes:
        device: where it is.
        nbytes: device memory of each part: "postings", "terms", "blocks", "alive".
        shards: how many the index has, open here or not.
    """

    def __init__(
        self,
        device: torch.device,
        runs: Sequence[_Run],
        nbytes: dict[str, int],
        shards: int,
        workspace: int,
    ) -> None:
        self.device, self.nbytes, self.shards = device, nbytes, shards
        self._runs, self._workspace = tuple(runs), workspace

    @classmethod
    def load(
        cls,
        shards: Sequence[Shard],
        block_size: int,
        shard_count: int,
        device: str,
        *,
        workspace: int = WORKSPACE_BYTES,
        free: int | None = None,
    ) -> DeviceIndex:
        """Copy shards to a device, if they fit.

        Args:
            shards: open shards; they may be closed afterwards as far as this copy goes.
            block_size: documents of a full block.
            shard_count: how many shards the index has.
            device: "cuda", "cuda:1" ..., or "cpu" for the plain torch scorer.
            workspace: bytes that a search may take for sums and candidates.
            free: bytes of memory to count on; None asks the device.

        Raises:
            InputError: no such device.
            UnavailableError: more bytes than are free.
        """
        place = find_device(device)
        runs = [
            (shard.number, run)
            for shard in shards
            for run in _consecutive(shard.segments, block_size)
        ]
        nbytes = {"postings": 0, "terms": 0, "blocks": 0, "alive": 0}
        for _, run in runs:
            for one in run:
                segment = one.segment
                nbytes["postings"] += segment.locals.nbytes + segment.impacts.nbytes
                nbytes["terms"] += segment.terms.nbytes + segment.indptr.nbytes
                nbytes["blocks"] += (
                    segment.block_documents.nbytes + segment.block_term_indptr.nbytes
                )
            if any(len(one.alive) for one in run):
                nbytes["alive"] += sum(len(one.segment) for one in run) * block_size
        if free is None and place.type == "cuda":
            free = torch.cuda.mem_get_info(place)[0]
        needed = sum(nbytes.values()) + workspace
        if free is not None and needed > free:
            parts = ", ".join(
                f"{name} {_gib(size)}" for name, size in {**nbytes, "workspace": workspace}.items()
            )
            raise UnavailableError(
                f"the index needs {_gib(needed)} GiB on {place} ({parts}), {_gib(free)} GiB are "
                "free; "
                "serve fewer shards per device, build it with fewer documents or terms, or score "
                "on the CPU"
            )
        loaded = [
            _Run(
                _join(run, block_size, place),
                _alive(run, block_size, place),
                run[0].manifest.first_ordinal,
                number,
            )
            for number, run in runs
        ]
        return cls(place, loaded, nbytes, shard_count, workspace)

    def search(self, queries: ImpactBatch, k: int) -> Answers:
        """The ``k`` best documents of each query; the queries are checked already.

        Args:
            queries: as :meth:`.index.Index.search` takes them.
            k: 1 to 10,000.
        """
        clock = Clock(self.device)
        found = self.search_tensors(Queries.from_impacts(queries, self.device), k, clock)
        keys, counts, matched, postings = fetch(
            found.keys, found.counts, found.matched, found.postings
        )
        return Answers(keys, counts, matched, postings, stages(clock))

    def search_tensors(self, queries: Queries, k: int, clock: Clock) -> Found:
        """The same without leaving the device, nor waiting for it; ``clock`` gets the stages'
        marks.
        """
        found = [
            search_blocks(
                queries,
                run.postings,
                k,
                alive=run.alive,
                first_ordinal=run.first_ordinal,
                shard=run.shard,
                shards=self.shards,
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


def queries_from_rows(terms: Tensor, impacts: Tensor, counts: Tensor) -> Queries:
    """Padded rows as compressed ones, without asking the device how many entries there are.

    Args:
        terms: int32 [n, K], each row's terms first and ascending.
        impacts: int32 [n, K].
        counts: int32 [n], entries of each row.
    """
    n, width = terms.shape
    indptr = torch.nn.functional.pad(counts.to(torch.int64).cumsum(0), (1, 0))
    columns = torch.arange(width, device=terms.device)
    # Padding goes to one place behind the last entry.
    places = torch.where(columns < counts[:, None], indptr[:-1, None] + columns, n * width).reshape(
        -1
    )
    joined = [
        torch.zeros(n * width + 1, dtype=torch.int32, device=terms.device).scatter_(
            0, places, values.reshape(-1)
        )
        for values in (terms, impacts)
    ]
    return Queries(indptr, joined[0], joined[1], -(-max(width, 1) // 16) * 16)


def stages(clock: Clock) -> dict[str, int]:
    """Nanoseconds of a search's stages, each of them named."""
    return {"score": 0, "select": 0, "merge": 0, **clock.read()}


def _consecutive(segments: Sequence[OpenSegment], block_size: int) -> list[list[OpenSegment]]:
    """Segments in groups within which every block begins ``block_size`` ordinals after the one
    before.
    """
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


def _join(run: Sequence[OpenSegment], block_size: int, device: torch.device) -> Postings:
    """The segments' arrays one after the other; offsets are moved up by what came before."""
    rows = [0, *accumulate(len(one.segment.terms) for one in run)]
    places = [0, *accumulate(len(one.segment.locals) for one in run)]
    blocks = [0, *accumulate(len(one.segment) for one in run)]
    starts: dict[str, tuple[list[int], list[int] | None]] = {
        "block_documents": (blocks, None),
        "block_term_indptr": (blocks, rows),
        "terms": (rows, None),
        "indptr": (rows, places),
        "locals": (places, None),
        "impacts": (places, None),
    }
    joined: dict[str, Any] = {}
    for name, (firsts, added) in starts.items():
        last_too = int(
            added is not None
        )  # an indptr has one entry more; the next segment's first one overwrites it
        whole = torch.empty(firsts[-1] + last_too, dtype=DTYPES[name], device=device)
        for number, one in enumerate(run):
            part = whole[firsts[number] : firsts[number + 1] + last_too]
            upload_into(part, getattr(one.segment, name))
            if added is not None:
                part += added[number]
        joined[name] = whole
    return Postings(**joined, block_size=block_size)


def _alive(run: Sequence[OpenSegment], block_size: int, device: torch.device) -> Tensor | None:
    if not any(len(one.alive) for one in run):
        return None
    bytes_of = []
    for one in run:
        alive = np.ones(len(one.segment) * block_size, dtype=np.uint8)
        alive[: len(one.alive)] = one.alive
        bytes_of.append(alive)
    return upload(np.concatenate(bytes_of), device)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"
