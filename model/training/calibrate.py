"""Lexical calibration: give the activations an absolute scale before contrastive training.

Cross-entropy does not care about a constant added to all logits of one position; a maximum over positions followed
by a ReLU does: after adaptation alone the positions with high logits overall win every term. Here each kept token is
asked, at its own position, for the activation ``peak * sqrt(idf / max idf)`` (so that the product of a query's and a
document's weight goes with IDF), and every other term of the pooled vector is pushed to zero with L1. The ask is made
before the ReLU, so it revives dead terms; the push is made through the head, so its gradient is sparse.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...kernels.head import head
from ..load import load_tokenizer
from ..manifest import Manifest
from ..tokens import tokenize
from .trainer import EncoderTrainer, Schedule, arguments, run, save_model, trainable_network


def calibrate(
    model: Path,
    texts: Sequence[str],
    out: Path,
    schedule: Schedule,
    *,
    length: int = 96,
    peak: float = 1.6,
    other: float = 0.01,
) -> None:
    """Run the calibration and write the model to ``out``; resumes from ``out``'s checkpoints.

    Args:
        model: an adapted model directory.
        texts: unlabelled passages.
        out: directory for the result; checkpoints lie beside it in ``OUT.work``.
        schedule: a batch is texts, a third of them cut to the length of a query.
        length: most tokens of a text.
        peak: weight that the rarest term should get.
        other: weight of the L1 push on terms that the text does not contain.
    """
    manifest = Manifest.load(model)
    tokenizer = load_tokenizer(model, manifest)
    torch.manual_seed(schedule.seed)
    random = np.random.default_rng(schedule.seed)
    network, adapted = trainable_network(model, manifest, rank=schedule.rank, device=schedule.device)
    chosen = random.permutation(len(texts))[: max(20_000, schedule.steps * schedule.batch)]
    ids = tokenize(tokenizer, manifest, [texts[i] for i in chosen], "document").ids
    rows = np.full(manifest.vocabulary_size, -1)
    rows[network.terms.cpu().numpy()] = np.arange(len(network.terms))
    frequency = np.bincount(
        np.concatenate([np.unique(row) for row in ids]), minlength=manifest.vocabulary_size
    )
    idf = np.log1p((len(ids) - frequency + 0.5) / (frequency + 0.5))
    target = torch.from_numpy(peak * np.sqrt(idf / idf.max())).float()
    trainer = _CalibrationTrainer(
        model=network,
        args=arguments(out, schedule, per_device_train_batch_size=schedule.batch),
        train_dataset=[{"ids": _span(row, length, random)} for row in ids if len(row)],
        data_collator=_Collator(rows, torch.expm1(target)),  # log1p(z) = weight where z = expm1(weight)
    )
    trainer.other = other
    run(trainer)
    save_model(out, network, adapted, manifest)


def _span(ids: NDArray[np.int32], length: int, random: np.random.Generator) -> NDArray[np.int32]:
    """A contiguous piece: every third as long as a query, 4 to 16 tokens."""
    size = int(random.integers(4, 17)) if random.random() < 1 / 3 else length
    start = int(random.integers(0, max(1, len(ids) - size + 1)))
    return ids[start : start + size]


class _Collator:
    def __init__(self, rows: NDArray[np.int64], preactivation: Tensor) -> None:
        self.rows, self.preactivation = torch.from_numpy(rows), preactivation

    def __call__(self, examples: list[dict[str, NDArray[np.int32]]]) -> dict[str, Tensor]:
        ids = [torch.from_numpy(example["ids"].astype(np.int64)) for example in examples]
        packed = torch.cat(ids)
        return {
            "input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
            "lengths": torch.tensor([len(row) for row in ids]),
            "rows": self.rows[packed],
            "asked": self.preactivation[packed],
        }


class _CalibrationTrainer(EncoderTrainer):
    other: float

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        lengths, rows = inputs["lengths"].cpu(), inputs["rows"]
        hidden, offsets = model.pooled(inputs["input_ids"], lengths)
        hidden = hidden.to(model.weight.dtype)
        weights = head(hidden, model.weight, offsets, bias=model.bias, scale=model.scale, shift=model.shift)
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
