"""The capacity planner: what a collection and its traffic need.

Bytes follow from the index format (3 per posting, 12 per term of a block, 12 per block) and from
the shape of the model. The number of terms in a block is estimated with the distribution of the
synthetic benchmark collection, see :mod:`.distribution`. Times come from :mod:`.published_times`
alone; what was not measured stays unknown.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..kernels.runtime.memory import WORKING_MEMORY
from ..kernels.score.types import (
    COLUMN_SHARE,
    DENSE_DOCUMENTS,
    DENSE_SHARE,
    MAX_DENSE,
    UNIT_POSTINGS,
)
from ..model.activations import text_bytes, token_bytes
from ..service.memory import ENCODER_BYTES, PROCESS_BYTES
from . import published_times as published
from .distribution import probabilities

BLOCK_DOCUMENTS = 2**14
POSTING_BYTES = 3
TERM_BYTES = 12  # int32 term and int64 offset
ROW_BYTES = 6  # on a GPU: int32 start and int16 length of a term in a block
ARRIVAL_BYTES = 4  # on a GPU: of each document
BLOCK_BYTES = 12  # int32 document count and int64 offset
CUDA_BYTES = 2**30  # assumed: context, libraries and fragmentation of the allocator
USABLE_MEMORY_SHARE = 0.9  # of main memory
TARGET_LOAD_SHARE = 0.7  # of the highest rate of a replica
QUEUE_DRAIN_SECONDS = 5.0  # in which a replica answers a full queue
WEIGHT_BITS = {"none": 16.0, "int8": 8.0, "nf4": 4.5, "fp4": 4.5}  # nf4: a float32 per 64 weights


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model.

    Attributes:
        layers, hidden, intermediate: as in a transformers configuration.
        query_width, key_width: widths of the attention projections: heads x head size, and
            key-value heads x head size.
        gated: whether the MLP has three matrices instead of two.
        vocabulary: number of terms.
        head_rows: rows of the head.
        tied: whether the head uses the embeddings' rows.
        measured: whether docs/benchmarks.md publishes its speed.
    """

    layers: int
    hidden: int
    intermediate: int
    query_width: int
    key_width: int
    gated: bool
    vocabulary: int
    head_rows: int
    tied: bool
    measured: bool = False

    def weight_bytes(self, quantization: str) -> int:
        """Return the bytes of the weights; embeddings and head always take two bytes each."""
        linear = self.hidden * (2 * self.query_width + 2 * self.key_width)
        linear += (3 if self.gated else 2) * self.hidden * self.intermediate
        head = 0 if self.tied else self.head_rows
        rows = (self.vocabulary + head) * self.hidden
        return round(self.layers * linear * WEIGHT_BITS[quantization] / 8 + 2 * rows)

    def activation_bytes(self, tokens: int, texts: int) -> int:
        """Estimate the largest activations of a batch, in bytes."""
        of_token = token_bytes(self.hidden, self.query_width, self.key_width, self.intermediate)
        return tokens * of_token + texts * text_bytes(self.head_rows)


# From the published configurations; `embedded` is the first six layers of SmolLM2-135M with
# 23,387 of its terms.
MODELS = {
    "embedded": ModelShape(6, 576, 1536, 576, 192, True, 49_152, 23_387, False, measured=True),
    "naver/splade-v3": ModelShape(12, 768, 3072, 768, 768, False, 30_522, 30_522, True),
    "Qwen/Qwen3-0.6B": ModelShape(28, 1024, 3072, 2048, 1024, True, 151_936, 151_936, True),
    "meta-llama/Llama-3.2-1B": ModelShape(16, 2048, 8192, 2048, 512, True, 128_256, 128_256, True),
    "meta-llama/Llama-3.1-8B": ModelShape(
        32, 4096, 14_336, 4096, 1024, True, 128_256, 128_256, False
    ),
}
VECTORS_ONLY = "none"


def model_shape(model: str) -> ModelShape | None:
    """Return the shape of a listed model or of a model directory; None for ``none``.

    Raises:
        InputError: the model is neither, or its configuration lacks a size.
    """
    if model == VECTORS_ONLY:
        return None
    if model in MODELS:
        return MODELS[model]
    path = Path(model) / "config.json"
    if not path.is_file():
        raise InputError(
            f"model: {model!r} is unknown; must be {VECTORS_ONLY}, a directory with config.json, "
            f"or one of {', '.join(MODELS)}"
        )
    config = json.loads(path.read_text())
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        size = config.get("head_dim") or hidden // heads
        gated = config.get("model_type") not in ("bert", "roberta", "xlm-roberta", "camembert")
        return ModelShape(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            intermediate=config["intermediate_size"],
            query_width=heads * size,
            key_width=config.get("num_key_value_heads", heads) * size,
            gated=gated,
            vocabulary=config["vocab_size"],
            head_rows=config["vocab_size"],
            tied=config.get("tie_word_embeddings", not gated),
        )
    except KeyError as error:
        raise InputError(
            f"{path}: {error.args[0]} is missing; the planner needs it to size the model"
        ) from None


def index_bytes(documents: int, mean_terms: float, vocabulary: int) -> dict[str, int]:
    """Return the bytes of the segments of an index by part.

    Args:
        documents: number of documents.
        mean_terms: mean number of distinct terms per document.
        vocabulary: number of terms.
    """
    blocks, rest = divmod(documents, BLOCK_DOCUMENTS)
    rows = blocks * block_terms(BLOCK_DOCUMENTS, mean_terms, vocabulary)
    rows += block_terms(rest, mean_terms, vocabulary) if rest else 0
    blocks += bool(rest)
    return {
        "postings": round(POSTING_BYTES * documents * mean_terms),
        "terms": round(TERM_BYTES * rows),
        "blocks": BLOCK_BYTES * blocks,
    }


def device_bytes(documents: int, mean_terms: float, vocabulary: int) -> dict[str, int]:
    """Return the bytes of an index on a GPU by part, named as in ``Layout.nbytes``.

    Args:
        documents, mean_terms, vocabulary: as for :func:`index_bytes`.
    """
    chances = document_chances(mean_terms, vocabulary)
    blocks, rest = divmod(documents, BLOCK_DOCUMENTS)
    sizes = [BLOCK_DOCUMENTS] * min(blocks, 1) + [rest] * bool(rest)
    often = np.zeros(len(chances), dtype=bool)
    if documents >= DENSE_DOCUMENTS:
        often[np.argsort(-chances)[:MAX_DENSE]] = True
        often &= chances * DENSE_SHARE >= 1
    padded = [_padded_postings(size * chances[~often]).sum() for size in sizes]
    postings = padded[0] * max(blocks, 1) + (padded[1] if len(padded) > 1 else 0)
    blocks += bool(rest)
    rows = -np.expm1(documents * np.log1p(-chances)).sum()
    return {
        "postings": round(POSTING_BYTES * postings),
        "columns": int(often.sum()) * blocks * BLOCK_DOCUMENTS,
        "rows": round(ROW_BYTES * rows * blocks) + 4 * vocabulary,
        "arrivals": ARRIVAL_BYTES * blocks * (BLOCK_DOCUMENTS + 1),
    }


def _padded_postings(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the expected places of a term in a block: Poisson postings in units of 16."""
    most = 40 * UNIT_POSTINGS
    grid = np.geomspace(1e-6, 20 * UNIT_POSTINGS, 400)
    counts = np.arange(most)
    logs = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    chance = np.exp(counts * np.log(grid)[:, None] - grid[:, None] - logs)
    places = chance @ (-(-counts // UNIT_POSTINGS) * UNIT_POSTINGS)
    # Above, the last unit of a term is half empty.
    beyond = means + (UNIT_POSTINGS - 1) / 2
    return np.where(means < grid[-1], np.interp(means, grid, places, left=0.0), beyond)


def column_bytes(documents: int, mean_terms: float, vocabulary: int) -> int:
    """Return the bytes of the CPU scorer's columns, see :mod:`..kernels.score.columns`.

    Arguments as for :func:`index_bytes`.
    """
    frequent = document_chances(mean_terms, vocabulary) >= COLUMN_SHARE
    return int(frequent.sum()) * -(-documents // BLOCK_DOCUMENTS) * BLOCK_DOCUMENTS


def block_terms(documents: int, mean_terms: float, vocabulary: int) -> float:
    """Return the expected number of distinct terms in a block."""
    chances = document_chances(mean_terms, vocabulary)
    return float(-np.expm1(documents * np.log1p(-chances)).sum())


def document_chances(mean_terms: float, vocabulary: int) -> NDArray[np.float64]:
    """Return the chance of each term to occur in a document.

    A document has a term of probability p with chance 1 - exp(-c p); bisection finds the c that
    gives documents of ``mean_terms`` terms.
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
    return np.minimum(-np.expm1(-high * chances), 1 - 1e-12)


@dataclass(frozen=True)
class Question:
    """What to plan for.

    Attributes:
        documents, mean_terms: size of the collection.
        model: see :func:`model_shape`.
        quantization: none, int8, nf4 or fp4.
        gpu_memory: bytes of one GPU; 0 for CPUs.
        memory: bytes of main memory of one machine.
        rate: peak queries per second; 0 if the rate does not matter.
        replicas: number of replicas; 0 for as many as the rate needs.
        query_terms, query_tokens: of a query, on average.
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
class CapacityPlan:
    """The answer to a question.

    Attributes:
        question: the question.
        parts: bytes by part, of the whole collection and one encoder.
        shards: number of shards, one per GPU or machine.
        shard_bytes: bytes of one shard and what shares its device.
        together: whether the encoder and the only shard share a device.
        replicas: number of replicas of each part.
        batch: expected queries per batch; None if not measured.
        p50: expected milliseconds per query; None if not measured.
        max_rate: highest queries per second of one replica; None if not measured.
        notes: what the numbers rest on, and what is unknown.
    """

    question: Question
    parts: dict[str, int]
    shards: int
    shard_bytes: int
    together: bool
    replicas: int
    batch: float | None
    p50: float | None
    max_rate: float | None
    notes: tuple[str, ...]


def make_plan(question: Question) -> CapacityPlan:
    """Plan bytes, shards, replicas and speed.

    Raises:
        InputError: the model is unknown, or does not fit into the given memory.
    """
    model = model_shape(question.model)
    vocabulary = 30_522 if model is None else model.vocabulary
    size_of = device_bytes if question.gpu_memory else index_bytes
    size = question.documents, question.mean_terms, vocabulary
    index = size_of(*size)
    if not question.gpu_memory:
        index["columns"] = column_bytes(*size)
    encoder = 0
    parts = dict(index)
    # One byte per document says whether it is live, from the first deletion on.
    parts["live"] = -(-question.documents // BLOCK_DOCUMENTS) * BLOCK_DOCUMENTS
    if model is not None:
        parts["weights"] = model.weight_bytes(question.quantization)
        encoder = parts["weights"]
    if question.gpu_memory:
        # A GPU's working memory holds the activations; larger batches go in pieces.
        parts["working memory"], parts["CUDA"] = WORKING_MEMORY.total, CUDA_BYTES
        overhead, capacity = WORKING_MEMORY.total + CUDA_BYTES, question.gpu_memory
        device = "GPU"
    else:
        if model is not None:
            parts["activations"] = model.activation_bytes(
                question.batch_tokens, question.batch_queries
            )
            encoder += parts["activations"]
        parts["process"] = PROCESS_BYTES + (ENCODER_BYTES if model else 0)
        overhead, capacity = parts["process"], int(question.memory * USABLE_MEMORY_SHARE)
        device = "machine"
    if encoder + overhead > capacity:
        raise InputError(
            f"{question.model}: needs {_gib(encoder + overhead)} GiB, one {device} has "
            f"{_gib(capacity)}; take a larger one, or --quantization nf4"
        )
    segments = sum(index.values()) + parts["live"]
    if segments + overhead + encoder <= capacity:
        shards, together, shard_bytes = 1, True, segments + overhead + encoder
    elif capacity <= overhead:
        raise InputError(
            f"memory: a shard needs {_gib(overhead)} GiB beside its postings, one {device} has "
            f"{_gib(capacity)}; take a larger one"
        )
    else:
        shards, together = max(1, math.ceil(segments / (capacity - overhead))), False
        shard_bytes = math.ceil(segments / shards) + overhead
    replicas, batch, p50, max_rate, notes = _speed(question, model, shards)
    return CapacityPlan(
        question, parts, shards, shard_bytes, together, replicas, batch, p50, max_rate, notes
    )


def _speed(
    question: Question, model: ModelShape | None, shards: int
) -> tuple[int, float | None, float | None, float | None, tuple[str, ...]]:
    """Return replicas, queries per batch, p50 in ms, highest rate of one replica, and notes.

    A batch of n queries takes ``first + (n - 1) * more`` ms. Meanwhile the next batch gathers:
    n = rate * time.
    """
    if question.gpu_memory:
        return max(1, question.replicas), None, None, None, ("GPU: times are not measured yet",)
    postings = (
        published.SCORE_POSTINGS
        * (question.documents / published.SCORE_DOCUMENTS)
        * (question.mean_terms / published.SCORE_MEAN_TERMS)
        * (question.query_terms / published.SCORE_QUERY_TERMS)
    )
    score = published.SCORE.value * postings / published.SCORE_POSTINGS / shards
    notes = [
        f"scoring: {postings:,.0f} postings per query, {score:.2f} ms per shard, from "
        f"{_source(published.SCORE)}"
    ]
    first = more = score
    if model is not None:
        if not model.measured:
            notes.append(f"{question.model}: times are not measured yet")
            return max(1, question.replicas), None, None, None, tuple(notes)
        # The only measured model looks queries up in a table, which a batch does not speed up.
        look_up = (
            published.ENCODE_QUERY.value * question.query_tokens / published.ENCODE_QUERY_TOKENS
        )
        first, more = first + look_up, more + look_up
        notes.append(f"encoding: from {_source(published.ENCODE_QUERY)}")
    max_rate = 1e3 / more
    replicas = question.replicas or max(
        1, math.ceil(question.rate / (TARGET_LOAD_SHARE * max_rate))
    )
    rate = question.rate / replicas / 1e3  # queries per millisecond of one replica
    if rate * more >= 1:
        notes.append(f"{question.rate:g} queries/s exceed what {replicas} replicas can answer")
        return replicas, None, None, max_rate, tuple(notes)
    batch = min(max(1.0, rate * (first - more) / (1 - rate * more)), question.batch_queries)
    batch_ms = first + (batch - 1) * more
    notes.append("batch and p50: without transport; a batch gathers while the last one runs")
    p50 = batch_ms * (1 + min(1.0, rate * batch_ms / batch) / 2)
    return replicas, batch, p50, max_rate, tuple(notes)


def _source(time: published.PublishedTime) -> str:
    return f"docs/benchmarks.md, {time.section}: {time.value} {time.unit}"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"
