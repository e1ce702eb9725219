"""Random vectors, queries and documents, and indexes built of them."""

import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from csplade.core.document import Document
from csplade.core.vectors import MAX_SCORE, ImpactBatch, SparseBatch
from csplade.index import BuildOptions, IndexBuilder
from csplade.index.storage.writable import WritableStore

VOCABULARY = 200


SCALE = 0.02


def random_vectors(rng, count, *, highest=30, levels=1000):
    """Vectors with 0 to ``highest`` terms and impacts on few or many levels (few: many ties)."""
    rows = []
    for _ in range(count):
        terms = rng.choice(VOCABULARY, rng.integers(0, highest + 1), replace=False)
        rows.append((terms, rng.integers(1, levels + 1, len(terms)) * SCALE))
    return SparseBatch.from_rows(rows)


def random_queries(rng, count, *, highest=40, levels=1000):
    """Queries with 0 to ``highest`` terms and impacts as large as documents of ``levels`` allow."""
    most = min(4095, MAX_SCORE // (levels * highest))
    rows = []
    for _ in range(count):
        terms = np.sort(rng.choice(VOCABULARY, rng.integers(0, highest + 1), replace=False))
        rows.append((terms, rng.integers(1, most + 1, len(terms))))
    return ImpactBatch.join(rows)


def delete(path, shard, ordinals):
    """Mark documents of a build as deleted in the store of a shard."""
    store = WritableStore.open(path / f"shard-{shard:04d}")
    with store.transaction():
        store.delete(sorted({int(one) for one in ordinals}), 1)
    store.close()


def assert_same(found, truth):
    """The results agree in every number and type, times aside."""
    for name in ("indptr", "shards", "ordinals", "scores", "matched", "postings"):
        mine, theirs = getattr(found, name), getattr(truth, name)
        assert mine.dtype == theirs.dtype, name
        np.testing.assert_array_equal(mine, theirs, err_msg=name)


def assert_same_hits(found, truth):
    """As above, but blocks without a document inside the mask need not be read."""
    assert_same(replace(found, postings=truth.postings), truth)
    assert (found.postings <= truth.postings).all()


def documents(first, last):
    return [
        Document(
            f"id-{i}", f"text {i} é", f"title {i}" if i % 2 else "", {"number": i, "list": [i]}
        )
        for i in range(first, last)
    ]


def make_index(path, vectors, *, batch=50, **settings):
    """Build an index of these vectors with small blocks; documents are id-0, id-1, ..."""
    small = {
        "vocabulary_size": VOCABULARY,
        "document_scale": SCALE,
        "block_size": 32,
        "segment_blocks": 3,
    }
    with IndexBuilder.create(path, BuildOptions(**small | settings)) as builder:
        for first in range(0, len(vectors), batch):
            last = min(first + batch, len(vectors))
            builder.add(documents(first, last), vectors.take(np.arange(first, last)))
        builder.finish()
    return path


# Shapes of random indexes, arguments of ``random_index``.
SHAPES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "count": st.integers(1, 150),
        "levels": st.sampled_from([1, 255, 1000, 65_280]),
        "shards": st.integers(1, 3),
        "block_size": st.sampled_from([1, 7, 64]),
        "segment_blocks": st.sampled_from([1, 2, 100]),
        "deleted": st.sampled_from([0.0, 0.1, 1.0]),
    }
)


@contextmanager
def random_index(folders, *, seed, count, levels, deleted, shards, **settings):
    """Build an index of random vectors, some of them deleted, for the length of the block.

    Yields the path, three random queries and the generator of random numbers.
    """
    rng = np.random.default_rng(seed)
    path = make_index(
        folders.mktemp("case") / "index",
        random_vectors(rng, count, levels=levels),
        shards=shards,
        **settings,
    )
    for shard in range(shards):
        held = len(range(shard, count, shards))
        delete(path, shard, np.flatnonzero(rng.random(held) < deleted))
    yield path, random_queries(rng, 3, levels=levels), rng
    shutil.rmtree(path)
