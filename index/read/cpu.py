"""Search on the CPU: compiled scoring of block ranges in a pool of threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...core.ranking_key import best_keys, pack, unpack
from ...core.vectors import ImpactBatch
from ...kernels.score.cpu import Workspace, score_segments
from ..storage.manifest import IndexManifest
from ..storage.wide import ONE_BYTE, split_queries
from .rare import RareDocuments
from .searcher import SearchResult, Selection, Wanted, always
from .shard import OpenSegment, Shard

T = TypeVar("T")
R = TypeVar("R")

# Documents times queries. Fewer are scored in less time than handing them to threads takes: one
# query of 15 terms in 115,249 documents takes 0.09 ms with one thread, 0.16 ms with two.
THREADED_FROM = 262_144
NO_KEYS = np.empty(0, dtype=np.int64)

_Rare = tuple[int, OpenSegment, RareDocuments]  # with the number of the shard


class ScoringThreads:
    """The threads that score, and their buffers, for all snapshots of an index.

    Args:
        count: how many; 1 is the caller itself.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.workspace = Workspace()
        self.pool = ThreadPoolExecutor(count, "csplade-score") if count > 1 else None

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown()


class CpuSearcher:
    """Searches shards in memory. Safe to use from many threads at once.

    Args:
        shards: the open shards.
        index: that the shards belong to.
        threads: score.
    """

    def __init__(
        self, shards: Sequence[Shard], index: IndexManifest, threads: ScoringThreads
    ) -> None:
        self._shards = {shard.number: shard for shard in shards}
        self._index, self._block_size = index, index.block_size
        self._shard_count = index.shard_count
        self._threads = threads

    def prepare(self) -> int:
        """Make the columns of frequent terms, so that no search waits for them.

        Returns:
            Their bytes, on top of those of the segments.
        """
        segments = [one.segment for shard in self._shards.values() for one in shard.segments]
        return sum(one.columns.impacts.nbytes for one in segments)

    def search(
        self, queries: ImpactBatch, k: int, mask: Selection | None = None, wanted: Wanted = always
    ) -> SearchResult:
        """Return the k best documents of each query; see :class:`.searcher.Searcher`."""
        started = time.perf_counter_ns()
        count = len(queries)
        documents = sum(shard.documents for shard in self._shards.values())
        pool = self._threads.pool if count * documents >= THREADED_FROM else None
        tasks = self._tasks(count, 1 if pool is None else self._threads.count)
        if self._index.max_impact > ONE_BYTE:
            queries = split_queries(queries, self._index.vocabulary_size)
        # The kernels are compiled for one layout only, and vectors from a message are read-only.
        terms = np.require(queries.terms, requirements=["C", "A", "W"])
        impacts = np.require(queries.impacts, requirements=["C", "A", "W"])
        allowed, rare = self._allowed(mask)

        def score(task: tuple[int, int, int, int]) -> tuple[NDArray[np.int64], int, int]:
            q, shard, first, last = task
            span = slice(queries.indptr[q], queries.indptr[q + 1])
            keys, matched, postings = score_segments(
                self._shards[shard].parts(first, last, allowed[shard]),
                self._block_size, shard, self._shard_count,
                terms[span], impacts[span], k, self._threads.workspace, lambda: wanted(q),
            )  # fmt: skip
            return self._by_arrival(keys, self._shards[shard]), matched, postings

        answers = self._map(score, tasks, pool)
        scored = time.perf_counter_ns()
        matched = np.zeros(count, dtype=np.int64)
        postings = np.zeros(count, dtype=np.int64)
        by_query: list[list[NDArray[np.int64]]] = [[] for _ in range(count)]
        for (q, _, _, _), (keys, hits, read) in zip(tasks, answers, strict=True):
            by_query[q].append(best_keys(keys, k))
            matched[q] += hits
            postings[q] += read
        for number, one, few in rare:
            for q in range(count):
                span = slice(queries.indptr[q], queries.indptr[q + 1])
                scores, places, hits, read = few.search(
                    terms[span], impacts[span], k, one.live, self._threads.workspace
                )
                arrivals = one.ordinals[places].astype(np.int64) * self._shard_count + number
                by_query[q].append(best_keys(pack(scores, arrivals), k))
                matched[q] += hits
                postings[q] += read
        selected = time.perf_counter_ns()
        ranked = [
            keys[0] if len(keys) == 1 else best_keys(np.concatenate([NO_KEYS, *keys]), k)
            for keys in by_query
        ]
        timings = {
            "score": scored - started,
            "select": selected - scored,
            "merge": time.perf_counter_ns() - selected,
        }
        return SearchResult.from_keys(ranked, self._shard_count, matched, postings, timings)

    def _allowed(
        self, mask: Selection | None
    ) -> tuple[dict[int, list[NDArray[np.uint8] | None]], list[_Rare]]:
        """Return what of each segment is searched by its blocks, and what apart from them."""
        allowed: dict[int, list[NDArray[np.uint8] | None]] = {}
        rare: list[_Rare] = []
        for number, shard in self._shards.items():
            allowed[number] = []
            for one in shard.segments:
                inside = None if mask is None else mask.of(number, one)
                few = None if mask is None or inside is None else mask.rare(one, inside)
                allowed[number].append(one.allowed(inside) if few is None else None)
                if few is not None and len(few):
                    rare.append((number, one, few))
        return allowed, rare

    def _tasks(self, queries: int, threads: int) -> list[tuple[int, int, int, int]]:
        """Return (query, shard, first block, last block) tasks, enough to occupy every thread."""
        pieces = -(-threads // max(queries, 1))
        tasks = []
        for q in range(queries):
            for shard in self._shards.values():
                cuts = min(pieces, shard.blocks)
                edges = [shard.blocks * i // cuts for i in range(cuts + 1)] if cuts else []
                tasks += [(q, shard.number, first, last) for first, last in pairwise(edges)]
        return tasks

    def _map(
        self, function: Callable[[T], R], tasks: Sequence[T], pool: ThreadPoolExecutor | None
    ) -> list[R]:
        if pool is None or len(tasks) < 2:
            return [function(task) for task in tasks]
        pieces = 4 * self._threads.count
        return list(pool.map(function, tasks, chunksize=-(-len(tasks) // pieces)))

    def _by_arrival(self, keys: NDArray[np.int64], shard: Shard) -> NDArray[np.int64]:
        """Return keys of positions as keys of ordinals, which rank alike inside the shard."""
        if shard.dense or not len(keys):
            return keys
        _, positions, scores = unpack(keys, self._shard_count)
        ordinals = shard.ordinals_at(positions)
        return pack(scores, ordinals * self._shard_count + shard.number)
