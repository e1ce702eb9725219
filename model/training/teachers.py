"""Teachers: score how well passages answer a query, and propose candidates.

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
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse, load_npz, save_npz, vstack
from torch import Tensor

from ...core.errors import CorruptError, InputError, UnavailableError
from ...core.files import file_sha256, write_aside
from ...core.vectors import SparseBatch
from ..checkpoint.files import first_line, read_json
from ..checkpoint.manifest import FILE_NAME
from ..checkpoint.sentence_transformers import MODULES_FILE
from .output import digest

K1, B = 0.9, 0.4
BLOCK = 1024  # passages encoded between two saves

Progress = Callable[[str, int, int], None]
Vectors = Any  # float32 [n, d], or a scipy csr_matrix of that shape


class _Named(Protocol):
    """A source of scores over a fixed list of passages.

    Attributes:
        name: of the scores in the mined file.
        identity: what the scores depend on: parameters, or a hash of a model's files.
    """

    name: str
    identity: str

    def prepare(self, passages: Sequence[str], work: Path, progress: Progress) -> None:
        """Read the passages; what takes long is kept in ``work`` and not done twice."""


@runtime_checkable
class Ranker(_Named, Protocol):
    """Scores every passage, and so can propose candidates."""

    def rank(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return scores, float32 [n, passages]."""


class PairScorer(_Named, Protocol):
    """Scores pairs one by one, those that others propose."""

    def pairs(self, query: str, passages: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return scores, float32, of one query and the passages at the given places."""


Teacher = Ranker | PairScorer


class Bm25:
    """BM25: k1 0.9, b 0.4, English stop words, Snowball stemmer."""

    name = "bm25"
    identity = f"bm25 k1={K1} b={B}"

    def __init__(self) -> None:
        self._stemmer = Stemmer.Stemmer("english")
        self._index = bm25s.BM25(k1=K1, b=B)

    def prepare(self, passages: Sequence[str], work: Path, progress: Progress) -> None:
        """Count the words of all passages."""
        self._index.index(self._words(passages), show_progress=False)

    def rank(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the scores of every passage."""
        found = self._words(queries, return_ids=False)
        return np.stack([self._index.get_scores(words) for words in found]).astype(np.float32)

    def _words(self, texts: Sequence[str], **how: Any) -> Any:
        return bm25s.tokenize(
            list(texts), stopwords="en", stemmer=self._stemmer, show_progress=False, **how
        )


class BiEncoder:
    """A model that gives queries and passages vectors, dense or sparse, compared by product."""

    def __init__(
        self,
        name: str,
        encode_queries: Callable[[Sequence[str]], Vectors],
        encode_passages: Callable[[Sequence[str]], Vectors],
        identity: str,
    ) -> None:
        self.name, self.identity = name, identity
        self._queries, self._passages = encode_queries, encode_passages

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
        """Return the scores of every passage."""
        return _dense(self._queries(queries) @ self._vectors.T)


class CrossEncoder:
    """A sentence-transformers CrossEncoder: reads query and passage together."""

    def __init__(self, name: str, model: Any, identity: str) -> None:
        self.name, self._model, self.identity = name, model, identity

    def prepare(self, passages: Sequence[str], work: Path, progress: Progress) -> None:
        """Keep the passages."""
        self._texts = passages

    def pairs(self, query: str, passages: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores of some passages."""
        scores = self._model.predict(
            [(query, self._texts[i]) for i in passages], show_progress_bar=False
        )
        return np.asarray(scores, dtype=np.float32)


def load_teacher(spec: str, device: str = "cpu") -> Teacher:
    """Load a teacher: ``bm25``, a sentence-transformers directory or a model of this project.

    Raises:
        InputError: neither of these.
        CorruptError: a directory that sentence-transformers cannot load.
        UnavailableError: sentence-transformers is needed and not installed.
    """
    if spec == "bm25":
        return Bm25()
    directory = Path(spec)
    name = directory.resolve().name
    if (directory / FILE_NAME).is_file():
        from ..encoder import Encoder

        encoder = Encoder.from_pretrained(directory, device=device)
        return BiEncoder(
            name,
            lambda texts: _sparse(encoder.encode_query(list(texts)), encoder.vocabulary_size),
            lambda texts: _sparse(encoder.encode_document(list(texts)), encoder.vocabulary_size),
            encoder.fingerprint,
        )
    if not any((directory / file).is_file() for file in ("config.json", MODULES_FILE)):
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
    kind, identity = _kind(directory), _identity(directory)
    try:
        model = getattr(sentence_transformers, kind)(
            str(directory), device=device, trust_remote_code=False
        )
    except Exception as error:
        raise CorruptError(
            f"teacher {spec!r}: sentence-transformers cannot load it: {first_line(error)}"
        ) from None
    if kind == "CrossEncoder":
        return CrossEncoder(name, model, identity)
    if kind == "SparseEncoder":
        return BiEncoder(
            name,
            lambda texts: _rows(_comparable(model, model.encode_query(list(texts)))),
            lambda texts: _rows(_comparable(model, model.encode_document(list(texts)))),
            identity,
        )
    return BiEncoder(
        name,
        lambda texts: model.encode_query(list(texts), show_progress_bar=False),
        lambda texts: model.encode_document(list(texts), show_progress_bar=False),
        identity,
    )


def _kind(directory: Path) -> str:
    """Return the class of sentence-transformers that reads a directory."""
    own = directory / "config_sentence_transformers.json"
    if own.is_file() and (named := read_json(own).get("model_type")):
        return str(named)
    if (directory / MODULES_FILE).is_file():
        modules = json.dumps(read_json(directory / MODULES_FILE))
        return "SparseEncoder" if "sparse_encoder" in modules else "SentenceTransformer"
    architectures = read_json(directory / "config.json").get("architectures") or [""]
    return (
        "CrossEncoder"
        if architectures[0].endswith("ForSequenceClassification")
        else "SentenceTransformer"
    )


def _identity(directory: Path) -> str:
    """Return a hash of all files of a directory."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return digest(f"{path.relative_to(directory)} {file_sha256(path)}" for path in files)


def _comparable(model: Any, vectors: Tensor) -> Tensor:
    """Return vectors whose product is the similarity that the model was trained for."""
    if model.similarity_fn_name == "dot":
        return vectors
    if model.similarity_fn_name != "cosine":
        raise InputError(
            f"teacher: similarity_fn_name is {model.similarity_fn_name!r}, must be dot or cosine"
        )
    return torch.nn.functional.normalize(vectors.to_dense(), dim=1).to_sparse()


def _sparse(batch: SparseBatch, width: int) -> csr_matrix:
    return csr_matrix((batch.weights, batch.terms, batch.indptr), shape=(len(batch), width))


def _rows(vectors: Tensor) -> csr_matrix:
    vectors = vectors.coalesce().cpu()
    return csr_matrix(
        (vectors.values().float().numpy(), vectors.indices().numpy()), shape=tuple(vectors.shape)
    )


def _dense(scores: Vectors) -> NDArray[np.float32]:
    return np.asarray(scores.toarray() if issparse(scores) else scores, dtype=np.float32)
