"""Search engines as peers of the service; each one is optional.

BMP, Qdrant Edge and bm25s hold the same integers as the index. Two of them do not compute the
same scores: BMP rounds the weights of a query, bm25s has no weights in a query. Their recall says
what that costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .peers import QueryTerms, Scorer, TermPostings, TopK, pooled, top_k

BMP_BLOCK_DOCUMENTS = 32
UPSERT_DOCUMENTS = 1000  # per call


def bmp(postings: TermPostings, threads: int, directory: Path) -> Scorer:
    """Search with block-max pruning; alpha = beta = 1 prunes no document that could be a hit."""
    from bmp import Indexer, Searcher

    path = str(directory / "bmp")
    indexer = Indexer(path, bsize=BMP_BLOCK_DOCUMENTS, compress_range=False)
    for number, (terms, impacts) in enumerate(_documents(postings)):
        vector = zip(map(str, terms.tolist()), map(int, impacts.tolist()), strict=True)
        indexer.add_document(str(number), dict(vector))
    indexer.finish()
    searcher = Searcher(path)

    def one(query: QueryTerms, k: int) -> TopK:
        terms, impacts = query
        vector = dict(zip(map(str, terms.tolist()), map(float, impacts.tolist()), strict=True))
        documents, scores = searcher.search(vector, k=k, alpha=1.0, beta=1.0)
        return np.array([int(one) for one in documents], dtype=np.int64), np.array(scores)

    return Scorer("BMP, in process", one, pooled(one, threads), exact=False)


def qdrant_edge(postings: TermPostings, threads: int, directory: Path) -> Scorer:
    """Search a Qdrant shard in this process, with its index built."""
    import qdrant_edge as qdrant

    config = qdrant.EdgeConfig(
        sparse_vectors={"terms": qdrant.EdgeSparseVectorParams(full_scan_threshold=0)},
        max_search_threads=threads,
        wal_enabled=False,
    )
    shard = qdrant.EdgeShard.create(str(directory / "qdrant"), config)
    points = []
    for number, (terms, impacts) in enumerate(_documents(postings)):
        vector = qdrant.SparseVector(terms.tolist(), impacts.tolist())
        points.append(qdrant.Point(number, {"terms": vector}))
        if len(points) == UPSERT_DOCUMENTS or number == postings.count - 1:
            shard.update(qdrant.UpdateOperation.upsert_points(points))
            points = []
    shard.optimize()

    def one(query: QueryTerms, k: int) -> TopK:
        terms, impacts = query
        vector = qdrant.SparseVector(terms.tolist(), list(map(float, impacts.tolist())))
        nearest = qdrant.Query.Nearest(vector, using="terms")
        hits = shard.query(qdrant.QueryRequest(limit=k, query=nearest))
        documents = np.array([hit.id for hit in hits], dtype=np.int64)
        return documents, np.array([hit.score for hit in hits], dtype=np.float64)

    return Scorer("Qdrant Edge, in process", one, pooled(one, threads))


def bm25s(postings: TermPostings, threads: int, directory: Path) -> Scorer:
    """Search with bm25s: columns of a sparse matrix, added in NumPy; the index stays in memory."""
    from bm25s import BM25

    model = BM25()
    model.nonoccurrence_array = None
    model.scores = {
        "data": postings.impacts,
        "indices": postings.documents,
        "indptr": postings.indptr,
        "num_docs": postings.count,
    }

    def one(query: QueryTerms, k: int) -> TopK:
        return top_k(model.get_scores_from_ids(query[0]), k)

    return Scorer("bm25s, in process", one, pooled(one, threads), exact=False)


def _documents(
    postings: TermPostings,
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """Yield terms and impacts of every document, in order of arrival."""
    rows = postings.by_document()
    for first, last in pairwise(rows.indptr):
        yield rows.indices[first:last], rows.data[first:last]


# Package -> function that builds its scorer from postings, threads and a directory of its own.
BUILDERS: dict[str, Callable[[TermPostings, int, Path], Scorer]] = {
    "bmp": bmp,
    "qdrant_edge": qdrant_edge,
    "bm25s": bm25s,
}
