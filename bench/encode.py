"""The encoding benchmark: the encoder beside a plain transformers loop over the same weights.

The loop is what research code does (Lion, LACONIC): pad the batch, compute every logit of every
token, activate, take the maximum, keep the largest terms row by row. It also runs the model for
queries that csplade looks up in a table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ..core.errors import InputError
from ..core.machine import hardware
from ..model import Encoder, Tokens
from ..model.checkpoint.head import load_head
from ..model.checkpoint.layout import find, resolve
from ..model.checkpoint.load import load_merged
from ..model.prior import saturated
from ..model.quantization import default_dtype

ROUNDS = 5
QUERIES_PER_ROUND = 10
BATCH = 16  # texts
QUERY_TOKENS = 12

# Encodes a list of texts on one side, "document" or "query".
Encode = Callable[[list[Any], str], Any]


@dataclass(frozen=True)
class EncoderTime:
    """The median times of one encoder.

    Attributes:
        name: of the encoder.
        passages_per_second: rate over all passages.
        query_milliseconds: time of a single query.
        ratio: csplade's rate divided by this one's.
    """

    name: str
    passages_per_second: float
    query_milliseconds: float
    ratio: float


@dataclass(frozen=True)
class EncodeReport:
    """What was run, and on what machine.

    ``cosine`` is the smallest cosine between the two encoders' vectors of a passage.
    """

    model: str
    passages: int
    tokens: int
    query_tokens: int
    threads: int
    hardware: str
    cosine: float
    encoders: tuple[EncoderTime, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


def compare_with_loop(
    model: str,
    texts: Sequence[str],
    tokens: int,
    passages: int,
    *,
    threads: int,
    device: str = "cpu",
    rounds: int = ROUNDS,
) -> EncodeReport:
    """Encode passages of exactly ``tokens`` tokens and single queries of 12 tokens, in turns.

    Args:
        model: a causal-LM model directory or ``embedded``.
        texts: passages whose tokens are concatenated and cut anew.
        tokens: length of every passage.
        passages: number of passages at most; rounded down to whole batches of the loop.
        threads: threads of torch.
        device: of both encoders: "cpu", "cuda", "cuda:1" ...
        rounds: turns of each encoder.

    Raises:
        InputError: the texts are too short for one batch, or ``tokens`` exceeds the model's cap.
    """
    encoder = Encoder.from_pretrained(model, device=device, threads=threads)
    if tokens > encoder.manifest.document_max_tokens:
        raise InputError(
            f"tokens: {tokens} is too large; {model} takes at most "
            f"{encoder.manifest.document_max_tokens}"
        )
    stream = np.concatenate(encoder.tokenize(texts, "document").ids)
    count = min(passages, len(stream) // tokens) // BATCH * BATCH
    if not count:
        raise InputError(
            f"corpus: {len(stream)} tokens are too few; at least {BATCH * tokens} are needed"
        )
    rows = list(stream[: count * tokens].reshape(count, tokens))
    contenders: dict[str, Encode] = {
        "csplade": lambda ids, kind: encoder.encode_tokens(_tokens(ids), kind).vectors,  # type: ignore[arg-type]
        "plain transformers loop": _PlainLoop(encoder, model, torch.device(device)),
    }
    ours, theirs = (encode(rows[:BATCH], "document") for encode in contenders.values())
    query = [rows[0][:QUERY_TOKENS]]
    return EncodeReport(
        model,
        count,
        tokens,
        len(query[0]),
        threads,
        hardware_line(device),
        min(_cosine(*pair, encoder.vocabulary_size) for pair in zip(ours, theirs, strict=True)),
        measure(contenders, rows, query, rounds),
    )


def measure(
    contenders: Mapping[str, Encode], documents: list[Any], query: list[Any], rounds: int
) -> tuple[EncoderTime, ...]:
    """Time encoders in turns; the first one is csplade's."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    waits: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, encode in contenders.items():
            rates[name].append(len(documents) / _seconds(partial(encode, documents, "document")))
            waits[name] += [
                1e3 * _seconds(partial(encode, query, "query")) for _ in range(QUERIES_PER_ROUND)
            ]
    medians = {name: float(np.median(rates[name])) for name in contenders}
    own = next(iter(medians.values()))
    return tuple(
        EncoderTime(name, rate, float(np.median(waits[name])), own / rate)
        for name, rate in medians.items()
    )


class _PlainLoop:
    """Computes the logits [batch, tokens, V], then everything else on them."""

    def __init__(self, encoder: Encoder, model: str, device: torch.device) -> None:
        directory = resolve(model)
        self.manifest, self.device = encoder.manifest, device
        base = find(directory, self.manifest)
        self.lm = load_merged(base, self.manifest, default_dtype(device.type)).to(device)
        kept = load_head(directory, self.manifest.vocabulary_size)
        self.bias = torch.full((self.manifest.vocabulary_size,), -torch.inf)
        self.bias[torch.from_numpy(kept.terms).long()] = torch.from_numpy(kept.bias)
        self.folded = torch.from_numpy(kept.folded).long()
        self.kept = torch.from_numpy(kept.rows >= 0)

    @torch.inference_mode()
    def __call__(self, ids: list[Any], kind: str) -> list[tuple[Any, Any]]:
        cap = self.manifest.query_max_terms if kind == "query" else self.manifest.document_max_terms
        rows = []
        for start in range(0, len(ids), BATCH):
            inputs = torch.from_numpy(np.stack(ids[start : start + BATCH]).astype(np.int64))
            if self.manifest.variant == "echo":
                inputs = inputs.repeat(1, 2)
            width = inputs.shape[1]
            mask = torch.ones(len(inputs), 1, width, width, dtype=torch.bool)
            if self.manifest.variant != "bidirectional":
                mask = mask.tril()
            logits = self.lm(
                inputs.to(self.device), attention_mask=mask.to(self.device), use_cache=False
            ).logits
            logits = logits[:, -len(ids[start]) :].float() + self.bias.to(self.device)
            scaled = self.manifest.logit_scale * logits + self.manifest.logit_shift
            pooled = torch.log1p(torch.relu(scaled)).amax(1).cpu()
            for tokens, row in zip(ids[start : start + BATCH], pooled, strict=True):
                own = torch.from_numpy(tokens.astype(np.int64))
                counts = torch.bincount(
                    self.folded[own[self.kept[own]]], minlength=len(row)
                ).float()
                share = saturated(counts[None], torch.tensor([len(own)]))[0]
                weights, terms = torch.topk(row + self.manifest.lexical_prior * share, cap)
                rows.append((terms[weights > 0].numpy(), weights[weights > 0].numpy()))
        return rows


def hardware_line(device: str = "cpu") -> str:
    """Return the machine and the encoder's type of numbers in one line."""
    dtype = str(default_dtype(torch.device(device).type)).removeprefix("torch.")
    return f"{hardware(device)}, {dtype}"


def _tokens(ids: list[Any]) -> Tokens:
    return Tokens(ids, np.zeros(len(ids), dtype=np.int64))


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _cosine(ours: tuple[Any, Any], theirs: tuple[Any, Any], size: int) -> float:
    dense = np.zeros((2, size))
    for row, (terms, weights) in enumerate((ours, theirs)):
        dense[row, terms] = weights
    return float(dense[0] @ dense[1] / (np.linalg.norm(dense[0]) * np.linalg.norm(dense[1]) or 1.0))
