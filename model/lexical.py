"""Inference-free queries: a query's vector is a look-up of its tokens in a table of weights.

SPLADE-doc (arXiv 2109.10086) gives every token of the query the weight 1; OpenSearch's document
encoders (arXiv 2411.04403) and sentence-transformers' ``SparseStaticEmbedding`` take it from a
table such as IDF. In all three a token counts once, however often the query repeats it; with the
manifest's ``query_counts`` it counts each time, as in BM25.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from ..core.errors import CorruptError
from ..core.vectors import SparseBatch
from .checkpoint.files import first_line, read_json
from .checkpoint.head import load_head
from .checkpoint.layout import Checkpoint
from .checkpoint.manifest import Manifest
from .tokenizer import Tokenizer
from .tokens import Encoded, Tokens

CHUNK = 1000
REPEATS = 4  # of one term in a query; the weight of more is clipped, and counted


class QueryTable:
    """Looks queries up.

    Args:
        weights: float32 [V], >= 0; a token of weight 0 is not a term of a query.
        folded: int32 [V], the term that each token stands for.
        cap: terms kept of a query, those of largest weight.
        counts: a term weighs as often as the query has it; else once.
        normalize: divide each vector by its Euclidean length.
    """

    def __init__(
        self,
        weights: NDArray[np.float32],
        folded: NDArray[np.int32],
        cap: int,
        *,
        counts: bool = False,
        normalize: bool = False,
    ) -> None:
        self.weights, self.folded, self.cap = weights, folded, cap
        self.counts, self.normalize = counts, normalize

    @property
    def largest(self) -> float:
        """The largest weight of a query's term, which may come ``REPEATS`` times."""
        if self.normalize:
            return 1.0
        return float(self.weights.max()) * (REPEATS if self.counts else 1)

    def look_up(self, tokens: Tokens) -> tuple[SparseBatch, NDArray[np.int64]]:
        """Return the vectors of queries, and int64 [n], the terms of each before the cap.

        Of equal weights at the cap the smaller id is kept.
        """
        rows, values, positive = [], [], np.zeros(len(tokens), dtype=np.int64)
        for row, ids in enumerate(tokens.ids):
            terms, repeats = np.unique(self.folded[ids], return_counts=True)
            weights = self.weights[terms] * repeats if self.counts else self.weights[terms]
            kept = np.flatnonzero(weights > 0)
            positive[row] = len(kept)
            if len(kept) > self.cap:
                kept = np.sort(kept[np.argsort(-weights[kept], kind="stable")[: self.cap]])
            rows.append(terms[kept])
            length = np.linalg.norm(weights[kept]) if self.normalize and len(kept) else 1.0
            values.append(weights[kept] / length)
        indptr = np.append(0, np.cumsum([len(terms) for terms in rows], dtype=np.int64))
        terms = np.concatenate([*rows, np.empty(0)]).astype(np.int32)
        return SparseBatch(
            indptr, terms, np.concatenate([*values, np.empty(0)]).astype(np.float32)
        ), positive

    def sources(self, ids: NDArray[np.int32], terms: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the position of the first token that stands for each term."""
        found, first = np.unique(self.folded[ids], return_index=True)
        return first[np.searchsorted(found, terms)].astype(np.int32)

    def encode(self, tokens: Tokens) -> Encoded:
        """Return the vectors of queries, all of the time as "sparsify"."""
        started = time.perf_counter_ns()
        vectors, positive = self.look_up(tokens)
        spent = time.perf_counter_ns() - started
        dropped_terms = positive - np.diff(vectors.indptr)
        timings = {"encode": 0, "sparsify": spent}
        return Encoded(vectors, tokens.lengths, tokens.dropped, dropped_terms, timings)


def load_table(checkpoint: Checkpoint, manifest: Manifest, tokenizer: Tokenizer) -> QueryTable:
    """Load the query table of a model directory.

    Without a file of weights every token weighs 1, and special ones 0.

    Raises:
        CorruptError: a table that is not readable, of another size, or with a weight below 0 or not
            finite.
    """
    path, size = checkpoint.table, manifest.vocabulary_size
    if path is None:
        weights = np.ones(size, dtype=np.float32)
        weights[tokenizer.special_ids()] = 0.0
    elif path.suffix == ".json":
        weights = _read_idf(path, tokenizer, size)
    else:
        weights = _read_tensor(path, size)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        term = int(np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))[0])
        raise CorruptError(
            f"{path}: the weight of term {term} is {weights[term]}, must be finite and at least 0"
        )
    folded = load_head(checkpoint.directory, size).folded
    return QueryTable(
        weights,
        folded,
        manifest.query_max_terms,
        counts=manifest.query_counts,
        normalize=manifest.normalize,
    )


def _read_tensor(path: Path, size: int) -> NDArray[np.float32]:
    try:
        (weights,) = load_file(path).values()
    except Exception as error:
        raise CorruptError(
            f"{path}: not readable as one tensor of query weights: {first_line(error)}"
        ) from None
    if weights.shape != (size,):
        raise CorruptError(
            f"{path}: query weights are {list(weights.shape)}, the vocabulary has {size} terms"
        )
    return weights.astype(np.float32)


def _read_idf(path: Path, tokenizer: Tokenizer, size: int) -> NDArray[np.float32]:
    """Read token weights.

    Of tokens without an id the last one's weight is that of the unknown token, as in the code of
    OpenSearch and sentence-transformers.
    """
    weights, ids = np.zeros(size, dtype=np.float32), tokenizer.vocabulary()
    try:
        for token, weight in read_json(path).items():
            term = ids.get(token, tokenizer.unknown)
            if term is None:
                raise ValueError(f"token {token!r} is not in the vocabulary")
            weights[term] = weight
    except (ValueError, AttributeError, TypeError) as error:
        raise CorruptError(f"{path}: not readable as token weights: {first_line(error)}") from None
    return weights
