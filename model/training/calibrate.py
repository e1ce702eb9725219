"""Lexical calibration: give the activations an absolute scale before contrastive training.

Cross-entropy does not care about a constant added to all logits of one position; a maximum over
positions followed by a ReLU does: after adaptation alone the positions with high logits overall win
every term. Here each kept token is asked, at its own position, for a weight that a lexical scorer
would give it, and every other term of the pooled vector is pushed to zero with L1. The first is
done before the ReLU, so it also moves terms that are always 0; the second through the head, so its
gradient is sparse. The weight asked for depends on what encodes queries:

- the model: ``peak * sqrt(idf / max idf)``, so that the product of a query's and a document's
  weight goes with IDF;
- a table (``query_encoder: lexical``), which holds the IDF: BM25's share of the document,
  ``peak`` times the share of :mod:`..prior`, what the manifest's ``lexical_prior`` adds not
  counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import InputError
from ...kernels.head.api import head
from ..checkpoint.tokenizer import load_tokenizer
from ..prior import K1, B
from ..tokens import tokenize
from .output import Output, digest, model_digest
from .trainer import EncoderTrainer, Schedule, Trainable, arguments, check_length, run


def calibrate(
    model: Path,
    texts: Sequence[str],
    out: Path,
    schedule: Schedule,
    *,
    length: int = 96,
    peak: float = 1.6,
    other: float = 0.01,
) -> bool:
    """Run the calibration and write the model to ``out``.

    It resumes from ``OUT.work``. Returns whether there was anything to do.

    Args:
        model: an adapted model directory.
        texts: unlabelled passages.
        out: directory for the result, not there yet; checkpoints lie beside it in ``OUT.work``.
        schedule: a batch is texts, a third of them cut to the length of a query.
        length: most tokens of a text.
        peak: weight that the rarest term should get.
        other: weight of the L1 push on terms that the text does not contain.

    Raises:
        InputError: ``out`` is something else, texts without a token, or more tokens than positions.
        IncompatibleError: ``out`` or ``OUT.work`` was made with another setting, model or data.
        TrainingError: training blew up.
    """
    settings = {"length": length, "peak": peak, "other": other}
    output = Output(
        out,
        "calibrate",
        {**asdict(schedule), **settings, "model": model_digest(model), "texts": digest(texts)},
    )
    if output.finished():
        return False
    trainable = Trainable.load(model, schedule)
    network, manifest = trainable.network, trainable.manifest
    random = np.random.default_rng(schedule.seed)
    chosen = random.permutation(len(texts))[: max(20_000, schedule.steps * schedule.batch)]
    tokenizer = load_tokenizer(model, manifest)
    ids = tokenize(tokenizer, manifest, [texts[i] for i in chosen], "document").ids
    if not any(map(len, ids)):
        raise InputError("texts: none of them has a token; give other --data")
    check_length(length, trainable)
    rows = trainable.head.rows
    kept = [np.unique(rows[row]) for row in ids]
    frequency = np.bincount(np.concatenate(kept) + 1, minlength=len(network.terms) + 1)[1:]
    idf = np.log1p((len(ids) - frequency + 0.5) / (frequency + 0.5))
    mean_tokens = float(np.mean([len(row) for row in ids]))

    # Tokens that are not kept (row -1) count towards a text's length; what is asked of them is
    # never looked at.
    def by_idf(found: NDArray[np.int64]) -> NDArray[np.float64]:
        weights: NDArray[np.float64] = peak * np.sqrt(idf / idf.max())[found]
        return weights

    def by_bm25(found: NDArray[np.int64]) -> NDArray[np.float64]:
        frequency = np.bincount(found + 1)[found + 1]
        return peak * frequency / (frequency + K1 * (1 - B + B * len(found) / mean_tokens))

    asked = by_bm25 if manifest.query_encoder == "lexical" else by_idf
    trainer = _CalibrationTrainer(
        model=network,
        args=arguments(output, schedule, per_device_train_batch_size=schedule.batch),
        train_dataset=[{"ids": _span(row, length, random)} for row in ids if len(row)],
        data_collator=_Collator(rows, asked),
    )
    trainer.other = other
    run(trainer, output)
    trainable.save(output)
    return True


def _span(ids: NDArray[np.int32], length: int, random: np.random.Generator) -> NDArray[np.int32]:
    """Return a contiguous piece: every third as long as a query, 4 to 16 tokens."""
    size = int(random.integers(4, 17)) if random.random() < 1 / 3 else length
    start = int(random.integers(0, max(1, len(ids) - size + 1)))
    return ids[start : start + size]


class _Collator:
    def __init__(
        self, rows: NDArray[np.int64], asked: Callable[[NDArray[np.int64]], NDArray[np.float64]]
    ) -> None:
        self.rows, self.asked = rows, asked

    def __call__(self, examples: list[dict[str, NDArray[np.int32]]]) -> dict[str, Tensor]:
        ids = [torch.from_numpy(example["ids"].astype(np.int64)) for example in examples]
        rows = [self.rows[example["ids"]] for example in examples]
        weights = [self.asked(row) for row in rows]
        return {
            "input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
            "lengths": torch.tensor([len(row) for row in ids]),
            "rows": torch.from_numpy(np.concatenate(rows)),
            # log1p(z) = weight where z = expm1(weight)
            "asked": torch.from_numpy(np.expm1(np.concatenate(weights))).float(),
        }


class _CalibrationTrainer(EncoderTrainer):
    other: float

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        lengths, rows = inputs["lengths"].cpu(), inputs["rows"]
        hidden, offsets = model.pooled(inputs["input_ids"], lengths)
        hidden = hidden.to(model.weight.dtype)
        weights = head(
            hidden, model.weight, offsets, bias=model.bias, scale=model.scale, shift=model.shift
        )
        kept = rows >= 0
        own = (hidden[kept] * model.weight[rows[kept]]).float().sum(1) + model.bias[rows[kept]]
        asked = F.smooth_l1_loss(model.scale * own + model.shift, inputs["asked"][kept])
        text = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(rows.device)
        foreign = torch.ones_like(weights).index_put(
            (text[kept], rows[kept]), torch.zeros((), device=rows.device)
        )
        pushed = (weights * foreign).sum() / len(weights)
        if self.state.global_step % self.args.logging_steps == 0:
            active = weights > 0
            self.log(
                {
                    "asked": asked.item(),
                    "pushed": pushed.item(),
                    "active_terms": active.sum(1).float().mean().item(),
                    "own_share": ((active & (foreign == 0)).sum() / (foreign == 0).sum()).item(),
                }
            )
        loss = asked + self.other * pushed
        return (loss, None) if return_outputs else loss
