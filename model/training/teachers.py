"""Teachers: whatever can say how well a passage answers a query. Mining asks them for candidates
and for scores.

BM25, a sentence-transformers directory (dense, sparse or cross-encoder), or a model of this
project. All but the cross-encoder score a query against every passage at the price of a matrix
product; a cross-encoder reads pairs one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse, load_npz, save_npz, vstack
from torch import Tensor

from ...core.errors import InputError, UnavailableError
from ...core.files import write_aside
from ...core.vectors import SparseBatch
from ..checkpoint.manifest import FILE_NAME

K1, B = 0.9, 0.4
BLOCK = 1024  # passages encoded between two saves

Progress = Callable[[str, int, int], None]
Vectors = Any  # float32 [n, d], or a scipy csr_matrix of that shape


class _Named(Protocol):
    """A source of scores over a fixed list of passages, with the name that they have in the mined
    file.
    """

    name: str

    def prepare(self, passages: Sequence[str], work: Path, progress: Progress) -> None:
        """Read the passages; what takes long is kept in ``work`` and not done twice."""


@runtime_checkable
class Ranker(_Named, Protocol):
    """Scores every passage, and so can propose candidates."""

    def rank(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Scores float32 [n, passages]."""


class PairScorer(_Named, Protocol):
    """Scores pairs one by one, those that others propose."""

    def pairs(self, query: str, passages: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores float32 of one query and the passages at the given places."""


Teacher = Ranker | PairScorer


class Bm25:
    """BM25: k1 0.9, b 0.4, English stop words, Snowball stemmer."""

    name = "bm25"

    def __init__(self) -> None:
        self._stemmer = Stemmer.Stemmer("english")
        self._index = bm25s.BM25(k1=K1, b=B)

    def prepare(self, passages: Sequence[str], work: Path, progress: Progress) -> None:
        """Count the words of all passages."""
        self._index.index(self._words(passages), show_progress=False)

    def rank(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Scores of every passage."""
        found = self._words(queries, return_ids=False)
        return np.stack([self._index.get_scores(words) for words in found]).astype(np.float32)

    def _words(self, texts: Sequence[str], **how: Any) -> Any:
        return bm25s.tokenize(
            list(texts), stopwords="en", stemmer=self._stemmer, show_progress=False, **how
        )


class BiEncoder:
    """Anything that turns queries and passages into vectors, float32 [n, d] or sparse, compared by
    their product.
    """

    def __init__(
        self,
        name: str,
        encode_queries: Callable[[Sequence[str]], Vectors],
        encode_passages: Callable[[Sequence[str]], Vectors],
    ) -> None:
        self.name, self._queries, self._passages = name, encode_queries, encode_passages

    def prepare(self, passages: Sequence[str], work: Path, progress: Progress) -> None:
        """Encode the passages, block by block."""
        blocks = []
        for start in range(0, len(passages), BLOCK):
            path = work / f"{self.name}-{start}.npz"
            if not path.is_file():
                block = csr_matrix(self._passages(passages[start : start + BLOCK]))
                with write_aside(path, "wb") as file:
                    save_npz(file, block, compressed=False)
            blocks.append(load_npz(path))
            progress(self.name, min(start + BLOCK, len(passages)), len(passages))
        self._vectors = vstack(blocks).tocsr()
        if self._vectors.nnz > self._vectors.shape[0] * self._vectors.shape[1] // 2:
            self._vectors = self._vectors.toarray()

    def rank(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Scores of every passage."""
        return _dense(self._queries(queries) @ self._vectors.T)


class CrossEncoder:
    """A sentence-transformers CrossEncoder: reads query and passage together."""

    def __init__(self, name: str, model: Any) -> None:
        self.name, self._model = name, model

    def prepare(self, passages: Sequence[str], work: Path, progress: Progress) -> None:
        """Remember the passages."""
        self._texts = passages

    def pairs(self, query: str, passages: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of some passages."""
        scores = self._model.predict(
            [(query, self._texts[i]) for i in passages], show_progress_bar=False
        )
        return np.asarray(scores, dtype=np.float32)


def load_teacher(spec: str, device: str = "cpu") -> Teacher:
    """A teacher from ``bm25``, a sentence-transformers directory or a directory of this project.

    Raises:
        InputError: neither of these.
        UnavailableError: sentence-transformers is needed and not installed.
    """
    if spec == "bm25":
        return Bm25()
    directory = Path(spec)
    name = directory.name
    if (directory / FILE_NAME).is_file():
        from ..encoder import Encoder

        encoder = Encoder.from_pretrained(directory, device=device)
        return BiEncoder(
            name,
            lambda texts: _sparse(encoder.encode_query(list(texts)), encoder.vocabulary_size),
            lambda texts: _sparse(encoder.encode_document(list(texts)), encoder.vocabulary_size),
        )
    if not (directory / "config.json").is_file():
        raise InputError(
            f"teacher {spec!r}: must be bm25, a sentence-transformers directory or a model "
            "directory of this project"
        )
    try:
        import sentence_transformers
    except ImportError:
        raise UnavailableError(
            f"teacher {spec!r} needs sentence-transformers; pip install 'csplade[train]'"
        ) from None
    kind = _kind(directory)
    model = getattr(sentence_transformers, kind)(str(directory), device=device)
    if kind == "CrossEncoder":
        return CrossEncoder(name, model)
    if kind == "SparseEncoder":
        return BiEncoder(
            name,
            lambda texts: _rows(model.encode_query(list(texts))),
            lambda texts: _rows(model.encode_document(list(texts))),
        )
    return BiEncoder(
        name,
        lambda texts: model.encode_query(list(texts), show_progress_bar=False),
        lambda texts: model.encode_document(list(texts), show_progress_bar=False),
    )


def _kind(directory: Path) -> str:
    """Which class of sentence-transformers reads a directory."""
    own = directory / "config_sentence_transformers.json"
    if own.is_file() and (named := json.loads(own.read_text()).get("model_type")):
        return str(named)
    architectures = json.loads((directory / "config.json").read_text()).get("architectures") or [""]
    return (
        "CrossEncoder"
        if architectures[0].endswith("ForSequenceClassification")
        else "SentenceTransformer"
    )


def _sparse(batch: SparseBatch, width: int) -> csr_matrix:
    return csr_matrix((batch.weights, batch.terms, batch.indptr), shape=(len(batch), width))


def _rows(vectors: Tensor) -> csr_matrix:
    vectors = vectors.coalesce().cpu()
    return csr_matrix(
        (vectors.values().float().numpy(), vectors.indices().numpy()), shape=tuple(vectors.shape)
    )


def _dense(scores: Vectors) -> NDArray[np.float32]:
    return np.asarray(scores.toarray() if issparse(scores) else scores, dtype=np.float32)
