"""The scorers that the benchmarks compare: csplade's own and its peers, over the same postings.

Weights are the integers of the index as float32, so that sums below 2^24 are exact in all of them
and can be compared.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.vectors import ImpactBatch
from ..index import Index

if TYPE_CHECKING:
    from scipy.sparse import csr_array

QueryTerms = tuple[NDArray[np.int32], NDArray[np.int32]]
# Document numbers (arrival order) and scores, best first.
TopK = tuple[NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True)
class TermPostings:
    """All postings of an index, grouped by term.

    Attributes:
        indptr: int64 [terms + 1].
        documents: int32 [postings], numbers in order of arrival; ascending in a term of one shard.
        impacts: float32 [postings].
        count: number of documents.
    """

    indptr: NDArray[np.int64]
    documents: NDArray[np.int32]
    impacts: NDArray[np.float32]
    count: int

    @classmethod
    def of(cls, index: Index) -> TermPostings:
        """Gather the postings from the blocks of an index."""
        manifest = index.manifest
        indptr = np.zeros(manifest.vocabulary_size + 1, dtype=np.int64)
        for _, _, block in index.blocks():
            indptr[1:][block.terms] += np.diff(block.indptr)
        np.cumsum(indptr, out=indptr)
        free = indptr[:-1].copy()
        documents = np.empty(indptr[-1], dtype=np.int32)
        impacts = np.empty(indptr[-1], dtype=np.float32)
        for shard, first, block in index.blocks():
            span = slice(block.indptr[0], block.indptr[-1])
            lengths = np.diff(block.indptr)
            places = np.repeat(free[block.terms] - block.indptr[:-1], lengths)
            places += np.arange(span.start, span.stop)
            documents[places] = (
                block.locals[span] + np.int64(first)
            ) * manifest.shard_count + shard
            impacts[places] = block.impacts[span]
            free[block.terms] += lengths
        return cls(indptr, documents, impacts, manifest.documents)

    def by_document(self) -> csr_array:
        """Return the postings as a documents x terms matrix."""
        from scipy.sparse import csc_array

        shape = (self.count, len(self.indptr) - 1)
        rows = csc_array((self.impacts, self.documents, self.indptr), shape=shape).tocsr()
        rows.sort_indices()
        return rows


def top_k(scores: NDArray[np.float32], k: int) -> TopK:
    """Return the k best matches of a dense score array, by argpartition."""
    k = min(k, len(scores))
    best = np.argpartition(scores, len(scores) - k)[len(scores) - k :]
    best = best[np.argsort(-scores[best], kind="stable")]
    best = best[scores[best] > 0]
    return best.astype(np.int64), scores[best].astype(np.float64)


@dataclass(frozen=True)
class Scorer:
    """One scorer.

    Attributes:
        name: for the table.
        one: returns the top k of a query, with one thread.
        many: returns the top k of many queries, with the threads given to its constructor.
        exact: whether it promises the true top k; None if its answers are no rankings at all.
    """

    name: str
    one: Callable[[QueryTerms, int], TopK]
    many: Callable[[Sequence[QueryTerms], int], list[TopK]]
    exact: bool | None = True


def pooled(
    one: Callable[[QueryTerms, int], TopK], threads: int
) -> Callable[[Sequence[QueryTerms], int], list[TopK]]:
    """Answer many queries with several threads, one query per thread."""
    pool = ThreadPoolExecutor(threads)
    return lambda queries, k: list(pool.map(lambda query: one(query, k), queries))


def csplade(single: Index, threaded: Index, name: str = "csplade") -> Scorer:
    """Score with this project's index, opened with one thread and with several."""
    shards = single.manifest.shard_count

    def many(index: Index, queries: Sequence[QueryTerms], k: int) -> list[TopK]:
        result = index.search(ImpactBatch.join(queries), k)
        rows = (result.row(i) for i in range(len(queries)))
        return [
            (ordinals * shards + shard, scores.astype(np.float64))
            for shard, ordinals, scores in rows
        ]

    return Scorer(
        name,
        lambda query, k: many(single, [query], k)[0],
        lambda queries, k: many(threaded, queries, k),
    )


def plain_numba(postings: TermPostings, threads: int) -> Scorer:
    """Score term at a time with numba into float32 sums, then argpartition.

    As naver/splade and Lion do.
    """
    import numba

    @numba.njit(nogil=True, fastmath=True)
    def accumulate(indptr, documents, impacts, count, terms, weights):  # type: ignore[no-untyped-def]
        scores = np.zeros(count, dtype=np.float32)
        for i in range(len(terms)):
            weight = weights[i]
            for p in range(indptr[terms[i]], indptr[terms[i] + 1]):
                scores[documents[p]] += weight * impacts[p]
        found = np.flatnonzero(scores > 0)
        return found, scores[found]

    def one(query: QueryTerms, k: int) -> TopK:
        terms, weights = query
        found, scores = accumulate(
            postings.indptr,
            postings.documents,
            postings.impacts,
            postings.count,
            terms,
            weights.astype(np.float32),
        )
        best, top = top_k(scores, k)
        return found[best], top

    return Scorer("numba term-at-a-time", one, pooled(one, threads))


def scipy_csc(postings: TermPostings, threads: int) -> Scorer:
    """Multiply the query's columns of a documents x terms matrix, then argpartition."""
    from scipy.sparse import csc_array

    shape = (postings.count, len(postings.indptr) - 1)
    matrix = csc_array((postings.impacts, postings.documents, postings.indptr), shape=shape)

    def one(query: QueryTerms, k: int) -> TopK:
        terms, weights = query
        return top_k(matrix[:, terms] @ weights.astype(np.float32), k)

    return Scorer("scipy CSC", one, pooled(one, threads))


def torch_sparse(postings: TermPostings, threads: int) -> Scorer:
    """Multiply a documents x terms CSR tensor by the dense query, then torch.topk."""
    import torch

    rows = postings.by_document()
    shape = rows.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CSR tensors are in beta state
        matrix = torch.sparse_csr_tensor(
            torch.from_numpy(rows.indptr.astype(np.int64)),
            torch.from_numpy(rows.indices.astype(np.int64)),
            torch.from_numpy(rows.data),
            shape,
        )

    def many(queries: Sequence[QueryTerms], k: int) -> list[TopK]:
        dense = torch.zeros(shape[1], len(queries))
        for i, (terms, weights) in enumerate(queries):
            dense[torch.from_numpy(terms.astype(np.int64)), i] = torch.from_numpy(
                weights.astype(np.float32)
            )
        top = torch.topk(matrix @ dense, min(k, shape[0]), dim=0)
        found = []
        for i in range(len(queries)):
            hit = top.values[:, i] > 0
            found.append(
                (top.indices[hit, i].numpy(), top.values[hit, i].numpy().astype(np.float64))
            )
        return found

    def one(query: QueryTerms, k: int) -> TopK:
        torch.set_num_threads(1)
        return many([query], k)[0]

    def all_threads(queries: Sequence[QueryTerms], k: int) -> list[TopK]:
        torch.set_num_threads(threads)
        return [
            answer
            for first in range(0, len(queries), 32)
            for answer in many(queries[first : first + 32], k)
        ]

    return Scorer("torch.sparse CSR", one, all_threads)


# (query_cut, heap_factor), from fast to accurate.
SEISMIC_SETTINGS = ((10, 0.9), (20, 0.8), (100, 0.7))


def seismic(postings: TermPostings, threads: int, n_postings: int) -> list[Scorer]:
    """Search one Seismic index (approximate) at several settings."""
    from seismic import SeismicDatasetLV, SeismicIndexLV, get_seismic_string

    string = get_seismic_string()
    rows = postings.by_document()
    dataset = SeismicDatasetLV(dim=rows.shape[1])
    dataset.add_documents_by_id(
        [str(i) for i in range(postings.count)],
        rows.indices.astype(np.int64),
        rows.data.astype(np.float32),
        rows.indptr.astype(np.int64),
    )
    index = SeismicIndexLV.build_from_dataset(dataset, n_postings=n_postings, num_threads=threads)

    def scorer(query_cut: int, heap_factor: float) -> Scorer:
        def many(queries: Sequence[QueryTerms], k: int, threads: int) -> list[TopK]:
            answers = index.batch_search(
                np.array([str(i) for i in range(len(queries))], dtype=string),
                [terms.astype(string) for terms, _ in queries],
                [weights.astype(np.float32) for _, weights in queries],
                k=k,
                query_cut=query_cut,
                heap_factor=heap_factor,
                num_threads=threads,
            )
            return [_seismic_answer(answer) for answer in answers]

        def one(query: QueryTerms, k: int) -> TopK:
            terms, weights = query
            return _seismic_answer(
                index.search(
                    "0",
                    terms.astype(string),
                    weights.astype(np.float32),
                    k=k,
                    query_cut=query_cut,
                    heap_factor=heap_factor,
                )
            )

        name = f"Seismic LV cut {query_cut}, heap {heap_factor}"
        return Scorer(name, one, lambda queries, k: many(queries, k, threads), exact=False)

    return [scorer(*setting) for setting in SEISMIC_SETTINGS]


def _seismic_answer(answer: list[tuple[Any, float, str]]) -> TopK:
    documents = np.array([int(document) for _, _, document in answer], dtype=np.int64)
    return documents, np.array([score for _, score, _ in answer], dtype=np.float64)
