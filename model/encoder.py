"""The encoder: texts in, sparse vectors out, by the rules of its manifest and checked against its golden vectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from ..errors import InputError
from ..kernels.sparse import SparseBatch
from ..kernels.topk import topk
from . import golden
from .load import EMBEDDED, load_network, load_tokenizer, resolve
from .manifest import Manifest
from .network import SparseNetwork
from .quantization import default_dtype
from .tokens import Kind, Tokens, tokenize

BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}
QUANTIZE_ABOVE = 2_000_000_000  # parameters


@dataclass(frozen=True)
class Encoded:
    """Vectors of some texts and what making them took.

    Attributes:
        vectors: one row per text, in the order given.
        tokens: int64 [n], tokens encoded.
        dropped_tokens: int64 [n], cut by the token cap.
        dropped_terms: int64 [n], positive weights cut by the term cap.
        timings: nanoseconds by stage: tokenize, encode, sparsify.
    """

    vectors: SparseBatch
    tokens: NDArray[np.int64]
    dropped_tokens: NDArray[np.int64]
    dropped_terms: NDArray[np.int64]
    timings: dict[str, int]


class Encoder:
    """A sparse encoder. Make one with :meth:`from_pretrained`; encoding from several threads at once is safe."""

    def __init__(
        self,
        name: str,
        manifest: Manifest,
        tokenizer: PreTrainedTokenizerFast,
        network: SparseNetwork,
        device: str,
        quantization: str,
    ) -> None:
        self.name, self.manifest, self.device, self.quantization = name, manifest, device, quantization
        self.fingerprint = manifest.fingerprint
        self.vocabulary_size = manifest.vocabulary_size
        self._tokenizer, self._network = tokenizer, network
        self._terms = network.terms.cpu().numpy()

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path = "embedded",
        *,
        device: str = "auto",
        quantization: str = "auto",
        dtype: torch.dtype | None = None,
        manifest: Manifest | None = None,
        threads: int | None = None,
    ) -> Encoder:
        """Load a model and run its golden texts.

        Args:
            path_or_id: ``embedded``, a directory, or a hub id.
            device: ``auto`` takes CUDA where there is one; else ``cpu``, ``cuda``, ``cuda:1`` ...
            quantization: ``auto``, ``none``, ``int8``, ``nf4`` or ``fp4``; auto is nf4 on CUDA above 2 billion parameters.
            dtype: of the unquantized weights; the device's quick one by default.
            manifest: how to use a causal LM that has no ``csplade.json`` of its own; refused where it has one.
            threads: of torch on the CPU; process-wide.

        Raises:
            InputError: no such model, an unknown option, a manifest given twice or missing.
            IncompatibleError: the golden texts do not give their vectors, or tokenizer or base are other ones.
            CorruptError: files that cannot be read.
            UnavailableError: the base or the hub is out of reach.
        """
        if threads is not None:
            if threads < 1:
                raise InputError(f"threads is {threads}, must be at least 1")
            torch.set_num_threads(threads)
        directory = resolve(path_or_id)
        own = (directory / "csplade.json").is_file()
        if own == (manifest is not None):
            raise InputError(
                f"{directory}: has a csplade.json already; leave out manifest"
                if own
                else f"{directory}: no csplade.json there; give a manifest that says how to use this model"
            )
        manifest = manifest or Manifest.load(directory)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"device is {device!r}, but torch sees no CUDA device; use cpu")
        tokenizer = load_tokenizer(directory, manifest)
        if not manifest.vocabulary_size:
            manifest = replace(manifest, vocabulary_size=len(tokenizer))
        if quantization == "auto":
            large = _weight_bytes(directory) > 2 * QUANTIZE_ABOVE  # two bytes a parameter
            quantization = "nf4" if large and device.startswith("cuda") else "none"
        network = load_network(
            directory,
            manifest,
            device=device,
            dtype=dtype or default_dtype(device),
            quantization=quantization,
        )
        name = "embedded" if directory == EMBEDDED else str(path_or_id)
        encoder = cls(name, manifest, tokenizer, network, device, quantization)
        golden.check(encoder, quantization)
        return encoder

    def encode_query(self, texts: Sequence[str]) -> SparseBatch:
        """Vectors of queries."""
        return self.encode(texts, "query").vectors

    def encode_document(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> SparseBatch:
        """Vectors of documents."""
        return self.encode(texts, "document", progress=progress).vectors

    def encode(
        self, texts: Sequence[str], kind: Kind, *, progress: Callable[[int], None] | None = None
    ) -> Encoded:
        """Tokenize and encode; ``progress`` is called with the number of texts each finished batch held."""
        started = time.perf_counter_ns()
        tokens = self.tokenize(texts, kind)
        spent = time.perf_counter_ns() - started
        encoded = self.encode_tokens(tokens, kind, progress=progress)
        return replace(encoded, timings={"tokenize": spent, **encoded.timings})

    def tokenize(self, texts: Sequence[str], kind: Kind) -> Tokens:
        """Token ids by the manifest's rules; cheap and safe to call from any thread."""
        if isinstance(texts, str):
            raise InputError("texts is one string, must be a list of strings")
        return tokenize(self._tokenizer, self.manifest, texts, kind)

    @torch.inference_mode()
    def encode_tokens(
        self,
        tokens: Tokens,
        kind: Kind,
        *,
        batch_tokens: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Encoded:
        """Encode in batches of like length, at most ``batch_tokens`` padded tokens each (one text may be more)."""
        cap = self.manifest.query_max_terms if kind == "query" else self.manifest.document_max_terms
        lengths = np.array([len(ids) for ids in tokens.ids], dtype=np.int64)
        counts = np.zeros(len(tokens), dtype=np.int64)
        positive = np.zeros(len(tokens), dtype=np.int64)
        rows: list[tuple[NDArray[np.int32], NDArray[np.float32]]] = [_EMPTY] * len(tokens)
        encode_ns = sparsify_ns = 0
        for batch in _by_length(lengths, batch_tokens or BATCH_TOKENS[self.device.split(":")[0]]):
            started = time.perf_counter_ns()
            width = int(lengths[batch].max())
            padded = np.zeros((len(batch), width), dtype=np.int64)
            for row, text in enumerate(batch):
                padded[row, : lengths[text]] = tokens.ids[text]
            weights = self._network(
                torch.from_numpy(padded).to(self.device), torch.from_numpy(lengths[batch])
            )
            if weights.is_cuda:
                torch.cuda.synchronize(weights.device)
            encoded = time.perf_counter_ns()
            columns, values, found = (
                part.cpu().numpy() for part in topk(weights, min(cap, weights.shape[1]))
            )
            positive[batch] = (weights > 0).sum(1).cpu().numpy()
            counts[batch] = found
            for row, text in enumerate(batch):
                order = np.argsort(columns[row, : found[row]])
                rows[text] = (
                    self._terms[columns[row, : found[row]][order]],
                    values[row, : found[row]][order],
                )
            encode_ns += encoded - started
            sparsify_ns += time.perf_counter_ns() - encoded
            if progress is not None:
                progress(len(batch))
        vectors = SparseBatch(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate([terms for terms, _ in rows] + [_EMPTY[0]]),
            np.concatenate([values for _, values in rows] + [_EMPTY[1]]),
        )
        return Encoded(
            vectors,
            lengths,
            tokens.dropped,
            positive - counts,
            {"encode": encode_ns, "sparsify": sparsify_ns},
        )

    def decode(self, vectors: SparseBatch, top_k: int | None = None) -> list[list[tuple[str, float]]]:
        """Each row as (token, weight), largest weight first, at most ``top_k``."""
        decoded = []
        for terms, weights in vectors:
            order = np.lexsort((terms, -weights))[:top_k]
            decoded.append([(self.token(int(terms[i])), float(weights[i])) for i in order])
        return decoded

    def token(self, term: int) -> str:
        """How the tokenizer writes a term; ``<term>`` for an id that it does not name."""
        if not 0 <= term < self.vocabulary_size:
            raise InputError(f"term is {term}, must be 0 to {self.vocabulary_size - 1}")
        token: str | None = self._tokenizer.convert_ids_to_tokens([term])[0]
        return token or f"<{term}>"

    def vocabulary(self) -> dict[str, int]:
        """Token string to term id."""
        return self._tokenizer.get_vocab()


_EMPTY = (np.empty(0, np.int32), np.empty(0, np.float32))


def _by_length(lengths: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Texts that have tokens, longest first, cut so that padded tokens stay within the budget."""
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    while len(order):
        size = max(1, budget // int(lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def _weight_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
