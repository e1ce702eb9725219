"""The capacity planner: what a collection and its traffic need, counted from the format and from
what was measured.

Bytes follow from the index format (3 a posting, 12 a term of a block, 12 a block) and from the
model's shape. How many terms a block has is estimated with the distribution of the benchmarks'
synthetic collection, see :mod:`.distribution`. Times come from :mod:`.measured` alone; where
nothing was measured, nothing is said.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..service.memory import ENCODER_BYTES, PROCESS_BYTES
from . import figures as measured
from .distribution import probabilities

BLOCK = 2**14  # documents
POSTING_BYTES = 3
TERM_BYTES = 12  # int32 term and int64 offset
BLOCK_BYTES = 12  # int32 documents and int64 offset
WORKSPACE_BYTES = 2 * 2**30  # of a search on a GPU, as in kernels/score/search.py
CUDA_BYTES = 2**30  # assumed: context, libraries and what the allocator cannot use
USABLE = 0.9  # of main memory
LOAD = 0.7  # of the most that a replica can do
RECOVERY = 5.0  # seconds in which a full queue should be worked off
BITS = {"none": 16.0, "int8": 8.0, "nf4": 4.5, "fp4": 4.5}  # 4 bits and a float32 for 64 weights


@dataclass(frozen=True)
class Shape:
    """A model by its sizes.

    Attributes:
        layers, hidden, intermediate: as in a transformers configuration.
        query_width, key_width: of the attention's projections: heads, and key-value heads, times
            head size.
        gated: whether the MLP has three matrices instead of two.
        vocabulary: terms.
        kept: rows of the head.
        tied: whether the head's rows are the embeddings', all of them.
        measured: whether docs/benchmarks.md tells its speed.
    """

    layers: int
    hidden: int
    intermediate: int
    query_width: int
    key_width: int
    gated: bool
    vocabulary: int
    kept: int
    tied: bool
    measured: bool = False

    def weight_bytes(self, quantization: str) -> int:
        """Bytes of the weights: body in that precision, embeddings and head in two bytes each."""
        linear = self.hidden * (2 * self.query_width + 2 * self.key_width)
        linear += (3 if self.gated else 2) * self.hidden * self.intermediate
        head = 0 if self.tied else self.kept
        rows = (self.vocabulary + head) * self.hidden
        return round(self.layers * linear * BITS[quantization] / 8 + 2 * rows)

    def activation_bytes(self, tokens: int, texts: int) -> int:
        """Bytes of one batch at its widest, estimated: a layer's inputs and products in two bytes,
        pooled weights in four.
        """
        widest = 4 * self.hidden + self.query_width + 2 * self.key_width + 3 * self.intermediate
        return 2 * tokens * widest + 2 * 4 * texts * self.kept


# From the models' published configurations; `embedded` is the first six layers of SmolLM2-135M and
# 23,387 of its terms.
KNOWN = {
    "embedded": Shape(6, 576, 1536, 576, 192, True, 49_152, 23_387, False, measured=True),
    "naver/splade-v3": Shape(12, 768, 3072, 768, 768, False, 30_522, 30_522, True),
    "Qwen/Qwen3-0.6B": Shape(28, 1024, 3072, 2048, 1024, True, 151_936, 151_936, True),
    "meta-llama/Llama-3.2-1B": Shape(16, 2048, 8192, 2048, 512, True, 128_256, 128_256, True),
    "meta-llama/Llama-3.1-8B": Shape(32, 4096, 14_336, 4096, 1024, True, 128_256, 128_256, False),
}
VECTORS_ONLY = "none"


def shape(model: str) -> Shape | None:
    """The shape of a known model or of one in a directory; None for ``none``, vector queries only.

    Raises:
        InputError: neither, or a configuration of another kind.
    """
    if model == VECTORS_ONLY:
        return None
    if model in KNOWN:
        return KNOWN[model]
    path = Path(model) / "config.json"
    if not path.is_file():
        raise InputError(
            f"model is {model!r}, must be {VECTORS_ONLY}, a directory with config.json, or one of "
            f"{', '.join(KNOWN)}"
        )
    config = json.loads(path.read_text())
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        size = config.get("head_dim") or hidden // heads
        gated = config.get("model_type") not in ("bert", "roberta", "xlm-roberta", "camembert")
        return Shape(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            intermediate=config["intermediate_size"],
            query_width=heads * size,
            key_width=config.get("num_key_value_heads", heads) * size,
            gated=gated,
            vocabulary=config["vocab_size"],
            kept=config["vocab_size"],
            tied=config.get("tie_word_embeddings", not gated),
        )
    except KeyError as error:
        raise InputError(
            f"{path}: no {error.args[0]}, the planner cannot tell the model's size"
        ) from None


def index_bytes(documents: int, mean_terms: float, vocabulary: int) -> dict[str, int]:
    """Bytes of an index by part, as :class:`~csplade.index.read.device.DeviceIndex` names them.

    Args:
        documents: how many.
        mean_terms: distinct terms of one, on average.
        vocabulary: terms there are.
    """
    blocks, rest = divmod(documents, BLOCK)
    rows = blocks * block_terms(BLOCK, mean_terms, vocabulary)
    rows += block_terms(rest, mean_terms, vocabulary) if rest else 0
    blocks += bool(rest)
    return {
        "postings": round(POSTING_BYTES * documents * mean_terms),
        "terms": round(TERM_BYTES * rows),
        "blocks": BLOCK_BYTES * blocks,
    }


def block_terms(documents: int, mean_terms: float, vocabulary: int) -> float:
    """Expected distinct terms of a block: each document has a term with chance 1 - exp(-c p), c
    such that it has ``mean_terms``.
    """
    chances = probabilities(vocabulary)
    low, high = 0.0, 1.0
    while -np.expm1(-high * chances).sum() < mean_terms and high < 1e12:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if -np.expm1(-middle * chances).sum() < mean_terms else (low, middle)
        )
    return float(-np.expm1(-documents * high * chances).sum())


@dataclass(frozen=True)
class Question:
    """What is planned for.

    Attributes:
        documents, mean_terms: of the collection.
        model: see :func:`shape`.
        quantization: none, int8, nf4 or fp4.
        gpu_memory: bytes of one GPU; 0 for CPUs.
        memory: bytes of main memory of one machine.
        rate: queries a second at the busiest; 0 if it does not matter.
        replicas: of everything; 0 for as many as the rate needs.
        query_terms, query_tokens: of a query.
        batch_tokens, batch_queries: of the largest batch, settings ``batching``.
    """

    documents: int
    mean_terms: float
    model: str = "embedded"
    quantization: str = "none"
    gpu_memory: int = 0
    memory: int = 0
    rate: float = 0.0
    replicas: int = 0
    query_terms: int = 43
    query_tokens: int = 12
    batch_tokens: int = 8192
    batch_queries: int = 64


@dataclass(frozen=True)
class Plan:
    """The answer.

    Attributes:
        question: that was asked.
        parts: bytes by part, of the whole collection and one encoder.
        shards: that the index is cut into, one a device or machine.
        shard_bytes: of one, with what stands beside it.
        together: whether encoder and the one shard share a device.
        replicas: of each.
        batch: queries that are answered together, expected; None if not measured.
        p50: milliseconds, expected; None if not measured.
        most: queries a second that one replica can do; None if not measured.
        notes: what the numbers rest on, and what is not known.
    """

    question: Question
    parts: dict[str, int]
    shards: int
    shard_bytes: int
    together: bool
    replicas: int
    batch: float | None
    p50: float | None
    most: float | None
    notes: tuple[str, ...]


def make(question: Question) -> Plan:
    """Plan.

    Raises:
        InputError: an unknown model, or one that does not fit into the memory given.
    """
    model = shape(question.model)
    vocabulary = 30_522 if model is None else model.vocabulary
    index = index_bytes(question.documents, question.mean_terms, vocabulary)
    encoder = 0
    parts = dict(index)
    # Living documents have a byte each as soon as one is deleted.
    parts["alive"] = -(-question.documents // BLOCK) * BLOCK
    if model is not None:
        parts["weights"] = model.weight_bytes(question.quantization)
        parts["activations"] = model.activation_bytes(question.batch_tokens, question.batch_queries)
        encoder = parts["weights"] + parts["activations"]
    if question.gpu_memory:
        parts["workspace"], parts["CUDA"] = WORKSPACE_BYTES, CUDA_BYTES
        beside, room, what = WORKSPACE_BYTES + CUDA_BYTES, question.gpu_memory, "GPU"
        alone = CUDA_BYTES
    else:
        parts["process"] = PROCESS_BYTES + (ENCODER_BYTES if model else 0)
        beside, room, what = parts["process"], int(question.memory * USABLE), "machine"
        alone = beside
    if encoder + alone > room:
        raise InputError(
            f"{question.model} needs {_gib(encoder + alone)} GiB, one {what} gives {_gib(room)}: "
            "take a larger one, or --quantization nf4"
        )
    held = sum(index.values()) + parts["alive"]
    if held + beside + encoder <= room:
        shards, together, shard_bytes = 1, True, held + beside + encoder
    else:
        if room <= beside:
            raise InputError(
                f"a shard needs {_gib(beside)} GiB beside its postings, one {what} gives "
                f"{_gib(room)}"
            )
        shards, together = max(1, math.ceil(held / (room - beside))), False
        shard_bytes = math.ceil(held / shards) + beside
    replicas, batch, p50, most, notes = _speed(question, model, shards)
    return Plan(question, parts, shards, shard_bytes, together, replicas, batch, p50, most, notes)


def _speed(
    question: Question, model: Shape | None, shards: int
) -> tuple[int, float | None, float | None, float | None, tuple[str, ...]]:
    """Replicas, expected batch, p50 in ms, queries a second of one replica, and notes.

    A batch of n takes ``first + (n - 1) * more``; while it runs the next one gathers: n = rate *
    time.
    """
    if question.gpu_memory:
        return (
            max(1, question.replicas),
            None,
            None,
            None,
            ("GPU: not measured yet, no time is told",),
        )
    postings = measured.SCORE_POSTINGS * (question.documents / measured.SCORE_DOCUMENTS)
    postings *= (
        question.mean_terms
        / measured.SCORE_MEAN_TERMS
        * question.query_terms
        / measured.SCORE_QUERY_TERMS
    )
    score = measured.SCORE.value * postings / measured.SCORE_POSTINGS / shards
    notes = [
        f"scoring: {postings:,.0f} postings a query, {score:.2f} ms a shard; from "
        "docs/benchmarks.md, "
        f"{measured.SCORE.section}: {measured.SCORE.value} {measured.SCORE.unit}"
    ]
    first = more = score
    if model is not None:
        if not model.measured:
            notes.append(f"{question.model}: not measured yet, no time is told")
            return max(1, question.replicas), None, None, None, tuple(notes)
        # The only model measured looks its queries up, and no batch makes that cheaper.
        look_up = measured.ENCODE_QUERY.value * question.query_tokens / measured.ENCODE_QUERY_TOKENS
        first, more = first + look_up, more + look_up
        notes.append(
            f"encoding: docs/benchmarks.md, {measured.ENCODE_QUERY.section}: "
            f"{measured.ENCODE_QUERY.value} "
            f"{measured.ENCODE_QUERY.unit}"
        )
    most = 1e3 / more
    replicas = question.replicas or max(1, math.ceil(question.rate / (LOAD * most)))
    rate = question.rate / replicas / 1e3  # queries a millisecond of one replica
    if rate * more >= 1:
        notes.append(f"{question.rate:g} queries/s are more than {replicas} replicas can do")
        return replicas, None, None, most, tuple(notes)
    batch = min(max(1.0, rate * (first - more) / (1 - rate * more)), question.batch_queries)
    took = first + (batch - 1) * more
    notes.append("batch and p50: a batch gathers while the one before runs; transport comes on top")
    return replicas, batch, took * (1 + min(1.0, rate * took / batch) / 2), most, tuple(notes)


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"
