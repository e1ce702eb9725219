"""Adaptation: teach a language model what its head is asked for, before contrastive training.

Contrastive training of a raw causal LM fails: CSPLADE reports dying ReLUs, and the embedded base
starts dense, its tokens lost among thousands of activated terms. The loss is CSPLADE's,
``CE(logits) + CE(log1p(relu(logits)))`` on packed text. What a position is asked for follows from
the attention: a causal model predicts the next token, as in the paper; a bidirectional or echo
model, which sees that token, predicts its own, with some inputs replaced so that it must use the
context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint.tokenizer import load_tokenizer
from . import losses
from .data import packed
from .output import Output, digest, model_digest
from .trainer import EncoderTrainer, Schedule, Trainable, arguments, check_length, run


def adapt(
    model: Path,
    texts: Sequence[str],
    out: Path,
    schedule: Schedule,
    *,
    length: int = 128,
    positions: int = 256,
    masked: float = 0.10,
) -> bool:
    """Run the adaptation phase and write the adapted model to ``out``.

    It resumes from ``OUT.work``. Returns whether there was anything to do.

    Args:
        model: a model directory, for example from :func:`start`.
        texts: unlabelled passages.
        out: directory for the result, not there yet; checkpoints lie beside it in ``OUT.work``.
        schedule: a batch is rows of ``length`` tokens.
        length: tokens per packed row.
        positions: how many positions per step the loss is taken at (the head over the vocabulary is
            most of its cost).
        masked: share of the inputs that are replaced, for bidirectional and echo.

    Raises:
        InputError: ``out`` is something else, too few texts, or more tokens than positions.
        IncompatibleError: ``out`` or ``OUT.work`` was made with another setting, model or data.
        TrainingError: training blew up.
    """
    settings = {"length": length, "positions": positions, "masked": masked}
    output = Output(
        out,
        "adapt",
        {**asdict(schedule), **settings, "model": model_digest(model), "texts": digest(texts)},
    )
    if output.finished():
        return False
    trainable = Trainable.load(model, schedule)
    network, manifest = trainable.network, trainable.manifest
    tokenizer = load_tokenizer(model, manifest)
    network.bias.requires_grad_(False)  # next to CE it would learn to undo the IDF it starts from
    order = np.random.default_rng(schedule.seed).permutation(len(texts))
    needed, taken, collected = schedule.steps * schedule.batch * length, 0, []
    for text in order:
        (ids,) = tokenizer.ids([" " + (texts[text].lower() if manifest.lowercase else texts[text])])
        collected.append(ids)
        taken += len(ids) + 1
        if taken > needed + length:
            break
    check_length(length, trainable)
    end = tokenizer.required_end()
    rows = packed(iter(collected), length, end)
    blank = end if tokenizer.unknown is None else tokenizer.unknown
    trainer = _AdaptTrainer(
        model=network,
        args=arguments(output, schedule, per_device_train_batch_size=schedule.batch),
        train_dataset=[{"ids": row} for row in rows],
        data_collator=_Collator(trainable, positions, masked, blank, schedule.seed),
    )
    run(trainer, output)
    trainable.save(output)
    return True


class _Collator:
    """Rows to inputs, positions and targets, which are rows of the head: kept terms alone."""

    def __init__(
        self, trainable: Trainable, positions: int, masked: float, blank: int, seed: int
    ) -> None:
        self.causal = trainable.manifest.variant == "causal"
        self.positions, self.blank = positions, blank
        self.masked = 0.0 if self.causal else masked
        self.random = np.random.default_rng(seed)
        self.rows = trainable.head.rows

    def __call__(self, examples: list[dict[str, NDArray[np.int64]]]) -> dict[str, Tensor]:
        inputs = np.stack([example["ids"] for example in examples])
        rows = self.rows[np.roll(inputs, -1, axis=1) if self.causal else inputs]
        if self.causal:
            rows[:, -1] = -1
        hidden = self.random.random(inputs.shape) < self.masked
        asked = np.flatnonzero(rows.ravel() >= 0)
        # Replaced inputs first: they are what teaches context; the rest are drawn from all other
        # positions.
        asked = self.random.permutation(asked)
        asked = asked[np.argsort(~hidden.ravel()[asked], kind="stable")][: self.positions]
        return {
            "input_ids": torch.from_numpy(np.where(hidden, self.blank, inputs)),
            "positions": torch.from_numpy(asked),
            "targets": torch.from_numpy(rows.ravel()[asked]),
        }


class _AdaptTrainer(EncoderTrainer):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        input_ids = inputs["input_ids"]
        hidden, _offsets = model.pooled(
            input_ids, torch.full((len(input_ids),), input_ids.shape[1])
        )
        chosen = hidden[inputs["positions"]].to(model.weight.dtype)
        logits = chosen @ model.weight.T
        loss = losses.adaptation(logits, inputs["targets"], scale=model.scale, shift=model.shift)
        if self.state.global_step % self.args.logging_steps == 0:
            accuracy = (logits.detach().argmax(1) == inputs["targets"]).float().mean()
            active = (model.scale * logits.detach() + model.shift > 0).float().sum(1).mean()
            self.log({"accuracy": accuracy.item(), "active_terms": active.item()})
        return (loss, None) if return_outputs else loss
