"""The encoder: texts in, sparse vectors out, by the rules of its manifest and checked against its
golden vectors.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ..core.errors import InputError
from ..core.vectors import MAX_QUERY_IMPACT, QUERY_SCALE, SparseBatch
from ..kernels.impacts import quantize
from ..kernels.runtime.transfer import Clock, fetch, upload
from ..kernels.topk.api import topk
from . import golden
from .checkpoint import presets
from .checkpoint.layout import EMBEDDED, find
from .checkpoint.load import load_network
from .checkpoint.manifest import Manifest
from .lexical import QueryTable, load_table
from .network import SparseNetwork
from .quantization import default_dtype, weight_bytes
from .tokens import Kind, Tokens, tokenize

log = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class EncodedTensors:
    """Vectors of n texts where the encoder made them, padded to the term cap K.

    Attributes:
        terms: int32 [n, K], ascending in each row, then -1.
        weights: float32 [n, K], > 0, then 0.
        counts: int32 [n], terms that are there.
        impacts: int32 [n, K], the weights as impacts, then 0; all 0 where no scale was given.
        clipped: int32 [n], impacts that were above the greatest and were cut to it.
        positive: int64 [n], positive weights before the term cap.
        clock: times "encode" and "sparsify"; to be read when the work was waited for.
    """

    terms: Tensor
    weights: Tensor
    counts: Tensor
    impacts: Tensor
    clipped: Tensor
    positive: Tensor
    clock: Clock

    def fetched(
        self,
        tokens: Tokens,
        terms: NDArray[np.int32],
        weights: NDArray[np.float32],
        counts: NDArray[np.int32],
        positive: NDArray[np.int64],
    ) -> Encoded:
        """The vectors of ``tokens``, once these tensors were copied to the host and so waited for."""
        there = terms >= 0
        return Encoded(
            SparseBatch(
                np.append(0, np.cumsum(counts, dtype=np.int64)), terms[there], weights[there]
            ),
            np.array([len(ids) for ids in tokens.ids], dtype=np.int64),
            tokens.dropped,
            positive - counts,
            {"encode": 0, "sparsify": 0, **self.clock.read()},
        )


class Encoder:
    """A sparse encoder. Make one with :meth:`from_pretrained`; encoding from several threads at
    once is safe.
    """

    def __init__(
        self,
        name: str,
        manifest: Manifest,
        tokenizer: PreTrainedTokenizerFast,
        network: SparseNetwork,
        device: str,
        quantization: str,
        *,
        preset: str,
        table: QueryTable | None = None,
    ) -> None:
        self.name, self.manifest, self.device, self.quantization = (
            name,
            manifest,
            device,
            quantization,
        )
        self.preset = preset
        self.fingerprint = manifest.fingerprint
        self.vocabulary_size = manifest.vocabulary_size
        self._tokenizer, self._network, self._table = tokenizer, network, table

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path = "embedded",
        *,
        device: str = "auto",
        quantization: str = "auto",
        quantize_head: bool = False,
        dtype: torch.dtype | None = None,
        manifest: Manifest | None = None,
        preset: str | None = None,
        tokenizer: str | Path | None = None,
        threads: int | None = None,
        self_test: bool = True,
    ) -> Encoder:
        """Load a model and run its golden texts.

        Args:
            path_or_id: ``embedded``, a directory, or a hub id.
            device: ``auto`` takes CUDA where there is one; else ``cpu``, ``cuda``, ``cuda:1`` ...
            quantization: ``auto``, ``none``, ``int8``, ``nf4`` or ``fp4``; auto is nf4 on CUDA
                above 2 billion parameters.
            quantize_head: pack the LM head too, which saves memory and costs time and quality.
            dtype: of the unquantized weights; the device's quick one by default.
            manifest: how to use a checkpoint that has no ``csplade.json`` of its own; refused where
                it has one.
            preset: a family's conventions instead of a manifest, see :data:`.presets.PRESETS`; told
                by the checkpoint's files where they tell.
            tokenizer: directory or hub id of a tokenizer, for a checkpoint that has none of its
                own.
            threads: of torch on the CPU; process-wide.
            self_test: compare with the golden vectors.

        Raises:
            InputError: no such model, an unknown option, a manifest given twice or missing.
            IncompatibleError: the golden texts do not give their vectors, or tokenizer, base or
                adapter are other ones.
            CorruptError: files that cannot be read.
            UnavailableError: the base or the hub is out of reach, or the device cannot do the
                quantization.
        """
        if threads is not None:
            if threads < 1:
                raise InputError(f"threads is {threads}, must be at least 1")
            torch.set_num_threads(threads)
        device = _device(device)
        known = presets.read(path_or_id, manifest=manifest, preset=preset, tokenizer=tokenizer)
        directory, manifest = known.directory, known.manifest
        if quantization == "auto":
            large = _weight_bytes(directory, manifest) > 2 * QUANTIZE_ABOVE  # two bytes a parameter
            quantization = "nf4" if large and device.startswith("cuda") else "none"
        network = load_network(
            directory,
            manifest,
            device=device,
            dtype=dtype or default_dtype(device),
            quantization=quantization,
            quantize_head=quantize_head,
        )
        name = "embedded" if directory == EMBEDDED else str(path_or_id)
        table = (
            load_table(directory, manifest, known.tokenizer)
            if manifest.query_encoder == "lexical"
            else None
        )
        encoder = cls(
            name,
            manifest,
            known.tokenizer,
            network,
            device,
            quantization,
            preset=known.preset,
            table=table,
        )
        if self_test:
            golden.check(encoder, quantization)
            if not manifest.golden:
                log.warning(
                    "%s: preset %s, no golden vectors to test it by: run csplade model certify %s",
                    *(name, known.preset, directory),
                )
        return encoder

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        return weight_bytes(self._network)

    @property
    def query_scale(self) -> float:
        """Weight of one query impact step for an index of this model: the usual one, unless a table
        gives larger weights.
        """
        return max(
            QUERY_SCALE, 0.0 if self._table is None else self._table.largest / MAX_QUERY_IMPACT
        )

    def looks_up(self, kind: Kind) -> bool:
        """Whether texts of this kind are looked up in a table, and no network runs for them."""
        return kind == "query" and self._table is not None

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
        """Tokenize and encode; ``progress`` is called with the number of texts each finished batch
        held.
        """
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

    def encode_tokens(
        self,
        tokens: Tokens,
        kind: Kind,
        *,
        batch_tokens: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Encoded:
        """Encode as :meth:`encode_tensors` does, and fetch the vectors in one copy."""
        made = self.encode_tensors(tokens, kind, batch_tokens=batch_tokens, progress=progress)
        return made.fetched(tokens, *fetch(made.terms, made.weights, made.counts, made.positive))

    @torch.inference_mode()
    def encode_tensors(
        self,
        tokens: Tokens,
        kind: Kind,
        *,
        impact_scale: float | None = None,
        batch_tokens: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> EncodedTensors:
        """Encode in batches of like length, at most ``batch_tokens`` padded tokens each (one text
        may be more).

        On a GPU nothing is waited for: ``progress`` then tells what was handed to it. With
        ``impact_scale`` there are impacts up to 4,095 in steps of that weight, the numbers of
        ``SparseBatch.quantize``.
        """
        if self.looks_up(kind):
            return self._look_up(tokens, impact_scale, progress)
        cap = self.manifest.query_max_terms if kind == "query" else self.manifest.document_max_terms
        network, texts = self._network, len(tokens)
        width = min(cap, len(network.terms))
        lengths = np.array([len(ids) for ids in tokens.ids], dtype=np.int64)
        terms = torch.full((texts, width), -1, dtype=torch.int32, device=self.device)
        weights = torch.zeros((texts, width), dtype=torch.float32, device=self.device)
        impacts = torch.zeros((texts, width), dtype=torch.int32, device=self.device)
        counts, clipped = torch.zeros((2, texts), dtype=torch.int32, device=self.device)
        positive = torch.zeros(texts, dtype=torch.int64, device=self.device)
        clock = Clock(self.device)
        for batch in _by_length(lengths, batch_tokens or BATCH_TOKENS[self.device.split(":")[0]]):
            padded = np.zeros((len(batch), int(lengths[batch].max())), dtype=np.int64)
            for row, text in enumerate(batch):
                padded[row, : lengths[text]] = tokens.ids[text]
            dense = network(upload(padded, self.device), torch.from_numpy(lengths[batch]))
            clock.mark("encode")
            top = topk(dense, width, scale=impact_scale)
            rows = upload(batch, self.device)
            # Kept terms ascend with their columns, and the padding must come last.
            order = torch.where(top.terms < 0, len(network.terms), top.terms).argsort(dim=1)
            chosen = network.terms[top.terms.clamp(min=0)].where(top.terms >= 0, -1)
            terms[rows] = chosen.gather(1, order)
            weights[rows] = top.weights.gather(1, order)
            impacts[rows] = top.impacts.gather(1, order)
            counts[rows], clipped[rows], positive[rows] = (
                top.counts,
                top.clipped,
                top.positive.to(torch.int64),
            )
            clock.mark("sparsify")
            if progress is not None:
                progress(len(batch))
        return EncodedTensors(terms, weights, counts, impacts, clipped, positive, clock)

    def _look_up(
        self, tokens: Tokens, impact_scale: float | None, progress: Callable[[int], None] | None
    ) -> EncodedTensors:
        """Queries without the model: all of the time is "sparsify"."""
        assert self._table is not None
        clock = Clock(self.device)
        vectors, positive = self._table.look_up(tokens)
        counts = np.diff(vectors.indptr)
        there = np.arange(counts.max(initial=0)) < counts[:, None]
        terms, weights = (
            np.full(there.shape, -1, dtype=np.int32),
            np.zeros(there.shape, dtype=np.float32),
        )
        terms[there], weights[there] = vectors.terms, vectors.weights
        lying = upload(weights, self.device)
        impacts, clipped = (
            torch.zeros_like(lying, dtype=torch.int32),
            torch.zeros(len(tokens), device=self.device),
        )
        if impact_scale is not None:
            impacts, clipped = quantize(lying, impact_scale, MAX_QUERY_IMPACT)
        made = EncodedTensors(
            upload(terms, self.device),
            lying,
            upload(counts.astype(np.int32), self.device),
            impacts,
            clipped.to(torch.int32),
            upload(positive, self.device),
            clock,
        )
        clock.mark("sparsify")
        if progress is not None:
            progress(len(tokens))
        return made

    def decode(
        self, vectors: SparseBatch, top_k: int | None = None
    ) -> list[list[tuple[str, float]]]:
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

    def save_tokenizer(self, directory: Path) -> None:
        """Write the tokenizer's files."""
        self._tokenizer.save_pretrained(directory)

    def vocabulary(self) -> dict[str, int]:
        """Token string to term id."""
        return self._tokenizer.get_vocab()


def _by_length(lengths: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Texts that have tokens, longest first, cut so that padded tokens stay within the budget."""
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    while len(order):
        size = max(1, budget // int(lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in BATCH_TOKENS or (number and not (kind == "cuda" and number.isdigit())):
        raise InputError(f"device is {name!r}, must be auto, cpu, cuda or cuda:NUMBER")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {name!r}, but torch sees no CUDA device; use cpu")
    if number and int(number) >= torch.cuda.device_count():
        raise InputError(
            f"device is {name!r}, but there are {torch.cuda.device_count()} CUDA devices"
        )
    return name


def _weight_bytes(directory: Path, manifest: Manifest) -> int:
    return sum(path.stat().st_size for path in find(directory, manifest).weight_files())
