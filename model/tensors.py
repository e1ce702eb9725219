"""Sparse vectors as tensors on the device that made them, for work that goes on there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import CorruptError
from ..core.vectors import MAX_QUERY_IMPACT, SparseBatch
from ..kernels.impacts import quantize
from ..kernels.runtime.memory import WORKING_MEMORY
from ..kernels.runtime.transfer import Clock, fetch, upload
from ..kernels.topk.api import topk
from .lexical import QueryTable
from .network import SparseNetwork
from .tokens import Encoded, Tokens

BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}

Progress = Callable[[int], None]
"""Called with the number of texts of each finished batch."""


@dataclass(frozen=True)
class EncodedTensors:
    """Vectors of n texts where the encoder made them, padded to the term cap K.

    Attributes:
        terms: int32 [n, K], ascending in each row, then -1.
        weights: float32 [n, K], > 0, then 0.
        impacts: int32 [n, K], the weights as impacts, then 0; all 0 where no scale was given.
        counts: int32 [n], terms of each row.
        clipped: int32 [n], impacts that were above the greatest and were cut to it.
        positive: int64 [n], positive weights before the term cap.
        nonfinite: int32 [n], weights that are NaN or infinite; no vector holds them.
        clock: times "encode" and "sparsify"; read it once the tensors are on the host. None where
            the work was recorded.
    """

    terms: Tensor
    weights: Tensor
    impacts: Tensor
    counts: Tensor
    clipped: Tensor
    positive: Tensor
    nonfinite: Tensor
    clock: Clock | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Return all tensors, in the order above."""
        return (
            self.terms,
            self.weights,
            self.impacts,
            self.counts,
            self.clipped,
            self.positive,
            self.nonfinite,
        )

    def fetch(self, tokens: Tokens) -> Encoded:
        """Return the vectors of ``tokens``, downloaded in one copy."""
        arrays = fetch(self.terms, self.weights, self.counts, self.positive, self.nonfinite)
        return encoded(tokens, *arrays, timings=self.clock.read() if self.clock else {})


def encoded(
    tokens: Tokens,
    terms: NDArray[np.int32],
    weights: NDArray[np.float32],
    counts: NDArray[np.int32],
    positive: NDArray[np.int64],
    nonfinite: NDArray[np.int32],
    *,
    timings: Mapping[str, int],
) -> Encoded:
    """Return the vectors of ``tokens``, given the tensors of :class:`EncodedTensors` on the host.

    Raises:
        CorruptError: the network gave weights that are not finite.
    """
    if nonfinite.any():
        raise CorruptError(
            f"encoder: {nonfinite.sum():,} weights of {np.count_nonzero(nonfinite):,} texts "
            "are not finite; the model overflows in its precision, load it in another or take "
            "another model"
        )
    there = terms >= 0
    return Encoded(
        SparseBatch(np.append(0, np.cumsum(counts, dtype=np.int64)), terms[there], weights[there]),
        tokens.lengths,
        tokens.dropped,
        positive - counts,
        {"encode": 0, "sparsify": 0, **timings},
    )


@dataclass(frozen=True)
class QueryRules:
    """How a network makes queries whose own terms are not weighted as those of documents.

    Attributes:
        table: weights of the queries' own terms; None for the network alone.
        expansion: factor of the network's weights beside a table.
    """

    table: QueryTable | None
    expansion: float

    def looked_up(self, tokens: Tokens, network: SparseNetwork) -> Tensor:
        """Return the table's weights of queries, float32 [n, Vk] on the network's device.

        Terms that the head does not keep are in no document either, and are left out.
        """
        assert self.table is not None
        vectors, _ = self.table.look_up(tokens)
        found = network.bias.new_zeros(len(tokens), len(network.terms))
        rows = np.repeat(np.arange(len(tokens)), np.diff(vectors.indptr))
        columns = network.own_rows[upload(vectors.terms.astype(np.int64), found.device)]
        weights = upload(vectors.weights, found.device).where(columns >= 0, 0.0)
        return found.index_put_(
            (upload(rows, found.device), columns.clamp(min=0)), weights, accumulate=True
        )


@torch.inference_mode()
def encode_tensors(
    network: SparseNetwork,
    tokens: Tokens,
    cap: int,
    *,
    device: str,
    normalize: bool = False,
    query: QueryRules | None = None,
    impact_scale: float | None = None,
    batch_tokens: int | None = None,
    batch_bytes: int = WORKING_MEMORY.activations,
    progress: Progress | None = None,
) -> EncodedTensors:
    """Encode texts in batches of similar length.

    On a GPU nothing is synchronized: ``progress`` then reports what was enqueued.

    Args:
        network: on ``device``.
        tokens: of the texts.
        cap: terms kept of a vector, those of largest weight.
        device: where the tensors are made.
        normalize: divide each vector by its Euclidean length.
        query: how queries are made where they are not made as documents are.
        impact_scale: weight of one impact step; None computes no impacts.
        batch_tokens: padded tokens of a batch at most (one text may have more); None for the
            device's usual number.
        batch_bytes: activations of a batch at most, likewise.
        progress: called after each batch.
    """
    texts, width = len(tokens), min(cap, len(network.terms))
    lengths = tokens.lengths
    terms = torch.full((texts, width), -1, dtype=torch.int32, device=device)
    weights = torch.zeros((texts, width), dtype=torch.float32, device=device)
    impacts = torch.zeros((texts, width), dtype=torch.int32, device=device)
    counts, clipped, nonfinite = torch.zeros((3, texts), dtype=torch.int32, device=device)
    positive = torch.zeros(texts, dtype=torch.int64, device=device)
    clock = Clock(device)
    most_tokens = batch_tokens or BATCH_TOKENS[device.split(":")[0]]

    def fitting(longest: int) -> int:
        of_text = network.batch_bytes(longest, 1)
        return min(most_tokens // longest, batch_bytes // of_text)

    for batch in _by_length(lengths, fitting):
        padded = np.zeros((len(batch), int(lengths[batch].max())), dtype=np.int32)
        for row, text in enumerate(batch):
            padded[row, : lengths[text]] = tokens.ids[text]
        dense = network(
            upload(padded, device), torch.from_numpy(lengths[batch]), own_terms=query is None
        )
        if query is not None and query.table is not None:
            dense = query.expansion * dense + query.looked_up(tokens.take(batch.tolist()), network)
        clock.mark("encode")
        made = _sparse(network, dense, width, None if normalize else impact_scale)
        rows = upload(batch, device)
        for whole, part in zip(
            (terms, weights, impacts, counts, clipped, positive, nonfinite),
            made.tensors,
            strict=True,
        ):
            whole[rows] = part
        clock.mark("sparsify")
        if progress is not None:
            progress(len(batch))
    if normalize:
        weights = torch.nn.functional.normalize(weights, dim=1)
        if impact_scale is not None:
            impacts, clipped = quantize(weights, impact_scale, MAX_QUERY_IMPACT)
    return EncodedTensors(terms, weights, impacts, counts, clipped, positive, nonfinite, clock)


@torch.inference_mode()
def padded_vectors(
    network: SparseNetwork, ids: Tensor, lengths: Tensor, cap: int, *, normalize: bool
) -> EncodedTensors:
    """Encode queries by work that does not depend on their lengths, so that it can be recorded.

    Args:
        network: makes the vectors alone, without a table.
        ids: int32 [n, S], tokens of each query; what follows them is ignored.
        lengths: int64 [n], tokens of each query, on the device of ``ids``.
        cap, normalize: as for :func:`encode_tensors`.
    """
    made = _sparse(network, network.padded(ids, lengths), min(cap, len(network.terms)), None)
    if normalize:
        return replace(made, weights=torch.nn.functional.normalize(made.weights, dim=1))
    return made


def _sparse(
    network: SparseNetwork, dense: Tensor, width: int, impact_scale: float | None
) -> EncodedTensors:
    """Return the largest weights of each row as vectors."""
    top = topk(dense, width, scale=impact_scale)
    # Kept terms ascend with their columns, and the padding must come last.
    order = torch.where(top.terms < 0, len(network.terms), top.terms).argsort(dim=1)
    chosen = network.terms[top.terms.clamp(min=0)].where(top.terms >= 0, -1)
    return EncodedTensors(
        chosen.gather(1, order),
        top.weights.gather(1, order),
        top.impacts.gather(1, order),
        top.counts,
        top.clipped,
        top.positive.to(torch.int64),
        top.nonfinite,
    )


def upload_vectors(
    vectors: SparseBatch,
    positive: NDArray[np.int64],
    *,
    device: str,
    impact_scale: float | None = None,
) -> EncodedTensors:
    """Upload vectors that were made on the host, with ``positive`` weights before the term cap."""
    clock = Clock(device)
    counts = np.diff(vectors.indptr)
    there = np.arange(counts.max(initial=0)) < counts[:, None]
    terms = np.full(there.shape, -1, dtype=np.int32)
    weights = np.zeros(there.shape, dtype=np.float32)
    terms[there], weights[there] = vectors.terms, vectors.weights
    uploaded = upload(weights, device)
    impacts = torch.zeros_like(uploaded, dtype=torch.int32)
    clipped = torch.zeros(len(vectors), device=device)
    if impact_scale is not None:
        impacts, clipped = quantize(uploaded, impact_scale, MAX_QUERY_IMPACT)
    made = EncodedTensors(
        upload(terms, device),
        uploaded,
        impacts,
        upload(counts.astype(np.int32), device),
        clipped.to(torch.int32),
        upload(positive, device),
        torch.zeros(len(vectors), dtype=torch.int32, device=device),
        clock,
    )
    clock.mark("sparsify")
    return made


def _by_length(
    lengths: NDArray[np.int64], fitting: Callable[[int], int]
) -> Iterator[NDArray[np.int64]]:
    """Yield texts that have tokens, longest first, each batch as large as fits its longest text."""
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    while len(order):
        size = max(1, fitting(int(lengths[order[0]])))
        yield order[:size]
        order = order[size:]
