"""The encoding benchmark: the encoder beside a plain transformers loop over the same weights, one
run, medians.

The loop is what research code does (Lion, LACONIC): pad the batch, compute every logit of every
token, activate, take the maximum, keep the largest terms row by row. It runs the model for queries
too, also where csplade looks them up.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ..core.errors import InputError
from ..model import Encoder, Tokens
from ..model.checkpoint.head import load_head
from ..model.checkpoint.layout import resolve
from ..model.checkpoint.load import load_merged
from ..model.prior import saturated
from ..model.quantization import default_dtype

ROUNDS = 5
BATCH = 16


@dataclass(frozen=True)
class Measured:
    """One encoder: passages per second and query milliseconds (medians), and how many times
    csplade's rate is its own.
    """

    name: str
    passages_per_second: float
    query_milliseconds: float
    ratio: float


@dataclass(frozen=True)
class EncodeReport:
    """What was run, and on what; ``cosine`` is the least one between the two encoders' vectors."""

    model: str
    passages: int
    tokens: int
    query_tokens: int
    threads: int
    hardware: str
    cosine: float
    encoders: tuple[Measured, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run(
    model: str,
    texts: Sequence[str],
    tokens: int,
    passages: int,
    *,
    threads: int,
    rounds: int = ROUNDS,
) -> EncodeReport:
    """Encode passages of exactly ``tokens`` tokens and single queries of 12, in turns.

    Args:
        model: a causal-LM model directory or ``embedded``.
        texts: passages to take tokens from, one after the other.
        tokens: length of every passage.
        passages: how many at most; rounded down to whole batches of the loop.
        threads: of torch.
        rounds: how often each encoder's turn comes.

    Raises:
        InputError: too little text for a single batch, or more tokens than the model takes.
    """
    encoder = Encoder.from_pretrained(model, device="cpu", threads=threads)
    if tokens > encoder.manifest.document_max_tokens:
        raise InputError(
            f"tokens is {tokens}, the model takes up to {encoder.manifest.document_max_tokens}"
        )
    stream = np.concatenate(encoder.tokenize(texts, "document").ids)
    count = min(passages, len(stream) // tokens) // BATCH * BATCH
    if not count:
        raise InputError(
            f"the texts give {len(stream)} tokens, at least {BATCH * tokens} are needed"
        )
    rows = list(stream[: count * tokens].reshape(count, tokens))
    query = [rows[0][:12]]
    plain = _PlainLoop(encoder, model)
    contenders: dict[str, Callable[[list[Any], str], Any]] = {
        "csplade": lambda ids, kind: encoder.encode_tokens(_tokens(ids), kind),  # type: ignore[arg-type]
        "plain transformers loop": plain,
    }
    vectors = [contender(rows[:BATCH], "document") for contender in contenders.values()]
    cosine = min(
        _cosine(ours, theirs, encoder.vocabulary_size)
        for ours, theirs in zip(vectors[0].vectors, vectors[1], strict=True)
    )
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    waits: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            rates[name].append(count / _seconds(partial(contender, rows, "document")))
            waits[name] += [_seconds(partial(contender, query, "query")) * 1e3 for _ in range(10)]
    own = float(np.median(rates["csplade"]))
    return EncodeReport(
        model,
        count,
        tokens,
        len(query[0]),
        threads,
        f"{platform.machine()}, {default_dtype('cpu')}".replace("torch.", ""),
        cosine,
        tuple(
            Measured(
                name,
                float(np.median(rates[name])),
                float(np.median(waits[name])),
                own / float(np.median(rates[name])),
            )
            for name in contenders
        ),
    )


class _PlainLoop:
    """``[batch, tokens, V]`` logits, then everything else on them."""

    def __init__(self, encoder: Encoder, model: str) -> None:
        directory = resolve(model)
        self.manifest = encoder.manifest
        self.lm = load_merged(directory, self.manifest, default_dtype("cpu"))
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
            logits = self.lm(inputs, attention_mask=mask, use_cache=False).logits[
                :, -len(ids[start]) :
            ]
            scaled = (
                self.manifest.logit_scale * (logits.float() + self.bias) + self.manifest.logit_shift
            )
            weighed = torch.log1p(torch.relu(scaled)).amax(1)
            for tokens, row in zip(ids[start : start + BATCH], weighed, strict=True):
                own = torch.from_numpy(tokens.astype(np.int64))
                counts = torch.bincount(
                    self.folded[own[self.kept[own]]], minlength=len(row)
                ).float()
                share = saturated(counts[None], torch.tensor([len(own)]))[0]
                weights, terms = torch.topk(row + self.manifest.lexical_prior * share, cap)
                rows.append((terms[weights > 0].numpy(), weights[weights > 0].numpy()))
        return rows


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
