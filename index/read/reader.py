"""Index: open, search, fetch, explain. Exact, and safe to use from many threads at once."""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...core.document import Document
from ...core.errors import IncompatibleError, InputError
from ...core.ranking_key import best_keys, unpack
from ...core.vectors import ImpactBatch
from ...kernels.score.cpu import Workspace, score_segments
from ...kernels.score.reference import Block, check_queries
from ...kernels.select.reference import check_k
from ..maintenance import VerifyReport, verify
from ..storage.documents import DocumentStore
from ..storage.manifest import IndexManifest
from .oracle import exhaustive
from .snapshot import Shard

if TYPE_CHECKING:
    from .device import Answers, DeviceIndex

T = TypeVar("T")
R = TypeVar("R")

FEW = 16_384  # documents (times queries) that are scored in less time than it takes to hand them to threads


@dataclass(frozen=True)
class SearchResult:
    """Ranked hits of n queries: score descending, then ordinal, then shard ascending.

    Attributes:
        indptr: int64 [n + 1], query i owns hits ``indptr[i]:indptr[i + 1]``.
        shards: int32 [h].
        ordinals: int64 [h].
        scores: int32 [h], all > 0; times query_scale * document_scale it is the float score.
        matched: int64 [n], live documents that share a term with the query.
        postings: int64 [n], postings read.
        timings: nanoseconds of wall time under "score", "select" and "merge".
    """

    indptr: NDArray[np.int64]
    shards: NDArray[np.int32]
    ordinals: NDArray[np.int64]
    scores: NDArray[np.int32]
    matched: NDArray[np.int64]
    postings: NDArray[np.int64]
    timings: dict[str, int]

    @classmethod
    def of(
        cls,
        ranked: Sequence[NDArray[np.int64]],
        shards: int,
        matched: NDArray[np.int64],
        postings: NDArray[np.int64],
        timings: dict[str, int],
    ) -> Self:
        """From each query's keys (see :mod:`.scorer`), best first, and the number of shards they
        were made with.
        """
        indptr = np.zeros(len(ranked) + 1, dtype=np.int64)
        np.cumsum([len(keys) for keys in ranked], out=indptr[1:])
        hits = unpack(np.concatenate([*ranked, np.empty(0, np.int64)]), shards)
        return cls(indptr, *hits, matched, postings, timings)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def row(self, i: int) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
        """Shards, ordinals and scores of query ``i`` (views)."""
        span = slice(self.indptr[i], self.indptr[i + 1])
        return self.shards[span], self.ordinals[span], self.scores[span]


class Index:
    """A finished index, opened for searching. Use as a context manager or ``close`` it.

    Attributes:
        path: its directory.
        manifest: what it is, with the manifests of the open shards.
        threads: of the CPU scorer.
        tensors: where searches run instead of the CPU scorer, see :meth:`to`; None until then.
    """

    tensors: DeviceIndex | None = None

    def __init__(
        self, path: Path, manifest: IndexManifest, shards: list[Shard], threads: int
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.threads = threads
        self._shards = {shard.number: shard for shard in shards}
        self._documents = {shard.shard: shard.documents for shard in manifest.shards}
        self._workspace = Workspace()
        self._pool = ThreadPoolExecutor(threads, "csplade-score") if threads > 1 else None

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        threads: int | None = None,
        shards: Sequence[int] | None = None,
        device: str = "cpu",
    ) -> Index:
        """Open an index: read its segments into memory and check every checksum.

        Args:
            path: the index directory.
            threads: how many threads score, None for the cores this process may use.
            shards: numbers of the shards to open, None for all; the others' files are not even
                looked at.
            device: where to score: "cpu", "cuda", "cuda:1" ..., or "auto" for a GPU where there is
                one.

        Raises:
            CorruptError: no index, an unfinished build, another format version, or a torn or
                altered file.
            InputError: ``threads`` below 1, a shard that the index does not have, or no such
                device.
            UnavailableError: it does not fit into the device's memory.
        """
        path = Path(path)
        if threads is None:
            threads = len(os.sched_getaffinity(0))
        if threads < 1:
            raise InputError(f"threads is {threads}, must be at least 1")
        manifest = IndexManifest.open(path, shards)
        opened: list[Shard] = []
        try:
            opened.extend(Shard.open(path, manifest, one) for one in manifest.shards)
        except BaseException:
            for shard in opened:
                shard.store.close()
            raise
        index = cls(path, manifest, opened, threads)
        try:
            if device != "cpu" and not (device == "auto" and not _has_gpu()):
                index.to("cuda" if device == "auto" else device)
        except BaseException:
            index.close()
            raise
        return index

    def to(self, device: str) -> None:
        """Copy the open shards to a torch device and search there from now on, with the same
        answers.

        Args:
            device: "cuda", "cuda:1" ...; "cpu" is the plain torch scorer, slow, for tests.

        Raises:
            InputError: no such device.
            UnavailableError: it does not fit into the device's memory.
        """
        from .device import DeviceIndex  # torch: seconds that the CPU scorer need not spend

        manifest = self.manifest
        self.tensors = DeviceIndex.load(
            list(self._shards.values()), manifest.block_size, manifest.shard_count, device
        )

    def close(self) -> None:
        """Let go of threads, device memory and document stores."""
        self.tensors = None
        if self._pool is not None:
            self._pool.shutdown()
        for shard in self._shards.values():
            shard.store.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def search(self, queries: ImpactBatch, k: int) -> SearchResult:
        """Find the ``k`` best documents of each query among all of them.

        Args:
            queries: n vectors of at most 2,048 terms, impacts 1 to 4,095, made with the index's
                query_scale.
            k: 1 to 10,000; more than there are matches gives the matches.

        Raises:
            InputError: ``k`` or a query out of its bounds.
            IncompatibleError: another query scale than the index's.
        """
        self._check(queries, k)
        if self.tensors is not None:
            return self.result(self.tensors.search(queries, k))
        started = time.perf_counter_ns()
        count = len(queries)
        tasks = self._tasks(count)
        # The kernels are compiled for one layout only; vectors that came over the wire are
        # read-only, for one.
        terms = np.require(queries.terms, requirements=["C", "A", "W"])
        impacts = np.require(queries.impacts, requirements=["C", "A", "W"])
        block_size, shard_count = self.manifest.block_size, self.manifest.shard_count

        def score(task: tuple[int, int, int, int]) -> tuple[NDArray[np.int64], int, int]:
            q, shard, first, last = task
            span = slice(queries.indptr[q], queries.indptr[q + 1])
            return score_segments(
                self._shards[shard].parts(first, last), block_size, shard, shard_count,
                terms[span], impacts[span], k, self._workspace,
            )  # fmt: skip

        answers = self._map(
            score, tasks, count * sum(one.documents for one in self.manifest.shards)
        )
        scored = time.perf_counter_ns()
        matched = np.zeros(count, dtype=np.int64)
        postings = np.zeros(count, dtype=np.int64)
        by_query: list[list[NDArray[np.int64]]] = [[] for _ in range(count)]
        for (q, _, _, _), (keys, hits, read) in zip(tasks, answers, strict=True):
            by_query[q].append(best_keys(keys, k))
            matched[q] += hits
            postings[q] += read
        selected = time.perf_counter_ns()
        ranked = [
            keys[0] if len(keys) == 1 else best_keys(np.concatenate(keys), k) for keys in by_query
        ]
        merged = time.perf_counter_ns()
        timings = {
            "score": scored - started,
            "select": selected - scored,
            "merge": merged - selected,
        }
        return SearchResult.of(ranked, shard_count, matched, postings, timings)

    def result(self, answers: Answers) -> SearchResult:
        """The result that a search on a device gave."""
        ranked = [keys[:count] for keys, count in zip(answers.keys, answers.counts, strict=True)]
        return SearchResult.of(
            ranked, self.manifest.shard_count, answers.matched, answers.postings, answers.timings
        )

    def _tasks(self, queries: int) -> list[tuple[int, int, int, int]]:
        """Cut the work into (query, shard, first block, last block) so that every thread has some."""
        pieces = -(-self.threads // max(queries, 1))
        tasks = []
        for q in range(queries):
            for shard in self._shards.values():
                cuts = min(pieces, shard.blocks)
                edges = [shard.blocks * i // cuts for i in range(cuts + 1)] if cuts else []
                tasks += [(q, shard.number, first, last) for first, last in pairwise(edges)]
        return tasks

    def _map(self, function: Callable[[T], R], tasks: Sequence[T], documents: int) -> list[R]:
        if self._pool is None or len(tasks) < 2 or documents < FEW:
            return [function(task) for task in tasks]
        return list(self._pool.map(function, tasks, chunksize=-(-len(tasks) // (4 * self.threads))))

    def oracle(self, queries: ImpactBatch, k: int) -> SearchResult:
        """The same answer as ``search``, found the slow way from the stored vectors by code of its
        own.
        """
        self._check(queries, k)
        started = time.perf_counter_ns()
        answers = exhaustive(
            {number: shard.store for number, shard in self._shards.items()},
            queries,
            k,
            self.manifest.vocabulary_size,
        )
        timings = {"score": time.perf_counter_ns() - started, "select": 0, "merge": 0}
        return SearchResult(
            np.concatenate([[0], np.cumsum([len(one[0]) for one in answers])]).astype(np.int64),
            np.concatenate([one[0] for one in answers] + [np.empty(0, np.int32)]),
            np.concatenate([one[1] for one in answers] + [np.empty(0, np.int64)]),
            np.concatenate([one[2] for one in answers] + [np.empty(0, np.int64)]).astype(np.int32),
            np.array([one[3] for one in answers], dtype=np.int64),
            np.array([one[4] for one in answers], dtype=np.int64),
            timings,
        )

    def fetch(
        self, shards: Sequence[int] | NDArray, ordinals: Sequence[int] | NDArray
    ) -> list[Document]:
        """The stored documents, in the order asked for.

        Raises:
            InputError: a shard or an ordinal that is not there.
        """
        return self._gather(shards, ordinals, DocumentStore.documents)

    def ids(self, shards: Sequence[int] | NDArray, ordinals: Sequence[int] | NDArray) -> list[str]:
        """The documents' own ids, in the order asked for; cheaper than :meth:`fetch`, no text is
        read.

        Raises:
            InputError: a shard or an ordinal that is not there.
        """
        return self._gather(shards, ordinals, DocumentStore.ids)

    def _gather(
        self,
        shards: Sequence[int] | NDArray,
        ordinals: Sequence[int] | NDArray,
        read: Callable[[DocumentStore, Sequence[int]], list[T]],
    ) -> list[T]:
        """What ``read`` gives for each place, each store asked once."""
        places = self._places(shards, ordinals)
        wanted: dict[int, list[int]] = {}
        for shard, ordinal in places:
            wanted.setdefault(shard, []).append(ordinal)
        found = {
            (shard, ordinal): value
            for shard, group in wanted.items()
            for ordinal, value in zip(group, read(self._shards[shard].store, group), strict=True)
        }
        return [found[place] for place in places]

    def vectors(
        self, shards: Sequence[int] | NDArray, ordinals: Sequence[int] | NDArray
    ) -> ImpactBatch:
        """The stored document vectors as impacts, in the order asked for.

        Raises:
            InputError: a shard or an ordinal that is not there.
        """
        rows = [
            self._shards[shard].store.vectors(ordinal, ordinal + 1)
            for shard, ordinal in self._places(shards, ordinals)
        ]
        return ImpactBatch(
            np.concatenate([[0], np.cumsum([len(row.terms) for row in rows])]).astype(np.int64),
            np.concatenate([row.terms for row in rows] + [np.empty(0, np.int32)]),
            np.concatenate([row.impacts for row in rows] + [np.empty(0, np.uint8)]).astype(
                np.int32
            ),
            self.manifest.document_scale,
        )

    def explain(
        self,
        query_terms: NDArray[np.int32],
        query_impacts: NDArray[np.int32],
        shard: int,
        ordinal: int,
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The terms a document shares with a query and what each adds: the products sum to the
        score.

        Returns:
            terms int32 and products int32, in descending product, then ascending term.
        """
        terms, impacts = self.vectors([shard], [ordinal]).row(0)
        shared, ours, theirs = np.intersect1d(
            query_terms, terms, assume_unique=True, return_indices=True
        )
        products = query_impacts[ours].astype(np.int32) * impacts[theirs]
        order = np.argsort(-products, kind="stable")
        return shared[order].astype(np.int32), products[order]

    def blocks(self) -> Iterator[tuple[int, int, Block]]:
        """Every block in memory, with its shard and its first document's ordinal."""
        for shard in self._shards.values():
            for one in shard.segments:
                for number in range(len(one.segment)):
                    first = one.manifest.first_ordinal + number * self.manifest.block_size
                    yield shard.number, first, one.segment.block(number)

    def verify(self, sample: int = 100, seed: int = 0) -> VerifyReport:
        """Check the whole index against its own store, and the scorer against the oracle.

        Args:
            sample: how many documents' own vectors are searched by both.
            seed: which documents those are.
        """
        return verify(self, list(self._shards.values()), sample, seed)

    def _places(
        self, shards: Sequence[int] | NDArray, ordinals: Sequence[int] | NDArray
    ) -> list[tuple[int, int]]:
        places = [
            (int(shard), int(ordinal)) for shard, ordinal in zip(shards, ordinals, strict=True)
        ]
        for shard, ordinal in places:
            if (documents := self._documents.get(shard)) is None:
                raise InputError(
                    f"shard is {shard}, this index has {self.manifest.shard_count} (from 0), "
                    f"of which are open: {', '.join(map(str, self._documents))}"
                )
            if not 0 <= ordinal < documents:
                raise InputError(
                    f"ordinal is {ordinal}, shard {shard} has {documents} documents (from 0)"
                )
        return places

    def _check(self, queries: ImpactBatch, k: int) -> None:
        check_k(k)
        check_queries(queries, self.manifest.vocabulary_size)
        if not math.isclose(queries.scale, self.manifest.query_scale):
            raise IncompatibleError(
                f"queries are quantized with scale {queries.scale}, "
                f"this index needs {self.manifest.query_scale} (its query_scale)"
            )


def _has_gpu() -> bool:
    """Whether torch sees a CUDA device; torch is not even loaded where there is no driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()
