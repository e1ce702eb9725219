"""Random vectors, queries and documents, and indexes built of them."""

import numpy as np

from csplade.core.document import Document
from csplade.core.vectors import QUERY_SCALE, ImpactBatch, SparseBatch
from csplade.index import IndexBuilder

VOCABULARY = 200


def random_vectors(rng, count, *, highest=30, levels=255):
    """Vectors with 0 to ``highest`` terms and weights on few or many levels (few levels: many
    ties).
    """
    rows = []
    for _ in range(count):
        terms = rng.choice(VOCABULARY, rng.integers(0, highest + 1), replace=False)
        rows.append((terms, rng.integers(1, levels + 1, len(terms)) * 0.02))
    return SparseBatch.from_rows(rows)


def random_queries(rng, count, *, highest=40):
    """Queries with 0 to ``highest`` terms and impacts 1 to 4,095."""
    rows = [
        np.sort(rng.choice(VOCABULARY, rng.integers(0, highest + 1), replace=False))
        for _ in range(count)
    ]
    return ImpactBatch(
        np.cumsum([0] + [len(row) for row in rows]).astype(np.int64),
        np.concatenate([*rows, np.empty(0)]).astype(np.int32),
        rng.integers(1, 4096, sum(len(row) for row in rows)).astype(np.int32),
        QUERY_SCALE,
    )


def documents(first, last):
    return [
        Document(
            f"id-{i}", f"text {i} é", f"title {i}" if i % 2 else "", {"number": i, "list": [i]}
        )
        for i in range(first, last)
    ]


def make_index(path, vectors, *, batch=50, **settings):
    """Build an index of these vectors with small blocks; documents are id-0, id-1, ..."""
    small = {"vocabulary_size": VOCABULARY, "encoder": None, "block_size": 32, "segment_blocks": 3}
    with IndexBuilder.create(path, **small | settings) as builder:
        for first in range(0, len(vectors), batch):
            last = min(first + batch, len(vectors))
            builder.add(documents(first, last), vectors.take(np.arange(first, last)))
        builder.finish()
    return path
