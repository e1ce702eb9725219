"""A synthetic collection of a known distribution for scoring benchmarks: vectors without text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.document import Document
from ..core.fields import Fields
from ..core.vectors import SparseBatch
from ..index import BuildOptions, Index, IndexBuilder
from .distribution import DOCUMENT_IMPACTS, VOCABULARY, probabilities

BATCH = 8192
# Weight of one impact step: the impacts drawn are kept as they are.
DOCUMENT_SCALE = 0.02


def build(
    path: Path,
    documents: int,
    mean_terms: float,
    seed: int,
    progress: Callable[[str, int, int], None],
    *,
    fields: Fields | None = None,
    metadata: Callable[[int], dict[str, Any]] = lambda number: {},
) -> None:
    """Build an index of the synthetic collection.

    ``metadata`` returns that of a document by its number, for the declared ``fields``.
    """
    rng = np.random.default_rng(seed)
    options = BuildOptions(VOCABULARY, document_scale=DOCUMENT_SCALE, fields=fields or {})
    with IndexBuilder.create(path, options) as builder:
        for first in range(0, documents, BATCH):
            count = min(BATCH, documents - first)
            builder.add(
                [Document(str(i), "", "", metadata(i)) for i in range(first, first + count)],
                draw_vectors(rng, count, mean_terms),
            )
            progress("documents", first + count, documents)
        builder.finish(lambda done, total: progress("segments", done, total))


def draw_vectors(rng: np.random.Generator, count: int, mean_terms: float) -> SparseBatch:
    """Return documents of the distribution."""
    lengths = rng.poisson(mean_terms, count)
    # Some draws repeat a term: draw more than needed, and keep the first distinct ones.
    drawn = np.repeat(np.arange(count), 2 * lengths + 16)
    edges = np.cumsum(probabilities())
    terms = np.minimum(np.searchsorted(edges, rng.random(len(drawn))), VOCABULARY - 1)
    _, first = np.unique(drawn * VOCABULARY + terms, return_index=True)
    first.sort()
    owners = drawn[first]
    starts = np.searchsorted(owners, np.arange(count))
    kept = first[np.arange(len(first)) - starts[owners] < lengths[owners]]
    keys = np.sort(drawn[kept] * VOCABULARY + terms[kept])
    owners, chosen = np.divmod(keys, VOCABULARY)
    impacts = np.clip(np.rint(rng.lognormal(*DOCUMENT_IMPACTS, len(chosen))), 1, 255)
    return SparseBatch(
        np.searchsorted(owners, np.arange(count + 1)).astype(np.int64),
        chosen.astype(np.int32),
        (impacts * DOCUMENT_SCALE).astype(np.float32),
    )


def term_shares(index: Index) -> NDArray[np.float64]:
    """Return the share of each term in the postings of an index: float64 [vocabulary]."""
    counts = np.zeros(index.manifest.vocabulary_size)
    for _, _, block in index.blocks():
        counts[block.terms] += np.diff(block.indptr)
    counts /= max(counts.sum(), 1)
    return counts
