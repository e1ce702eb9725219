"""Retrieval training: contrastive, distillation, or both, for a sparse encoder or its dense twin.

Loss (CSPLADE section 3.3; Lion, arXiv 2502.15526; SPLADE v2): a weighted sum of

    nce         InfoNCE over all passages of the batch, scores / temperature
    kl          KL(teacher || student) over each query's own candidates, scores / temperature
    margin_mse  squared error of the margins over each query's own negatives
    regularizers: ramp(step) * (query_flops * FLOPS(Q) + query_l1 * L1(Q) + document_flops *
                                 FLOPS(D) + document_l1 * L1(D))

A passage that is judged relevant for a query is never its negative. Scores of several teachers are
first brought to one scale: :func:`combine_teachers` fits one weight each so that the softmax over
the candidates puts most on what was judged relevant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import InputError
from ..checkpoint.tokenizer import load_tokenizer
from . import losses
from .dev import DevSplit, WatchDev
from .mine import Mined
from .output import Output, model_digest
from .pairs import Batches, Collator, Source
from .trainer import EncoderTrainer, Schedule, Trainable, arguments, run

SUB_BATCH = 16  # texts of like length that run together, so that padding stays small


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is learned.

    Attributes:
        nce, kl, margin_mse: weights of the losses; the last two need teachers.
        teachers: names of scores in the mined files.
        temperature: scores are divided by it for nce and kl.
        query_flops, query_l1, document_flops, document_l1: weights of the regularizers at full
            ramp.
        ramp_steps: steps of the quadratic ramp; None for a third of all steps.
        negatives: mined negatives per query; the passages of all queries are shared.
        document_tokens: passages are cut here while training.
        representation: ``sparse``, or ``dense``: the normalized hidden state of an end-of-text
            token.
        train_table: whether the table of a lexical query encoder learns too, or documents alone.
    """

    nce: float = 1.0
    kl: float = 0.0
    margin_mse: float = 0.0
    teachers: tuple[str, ...] = ()
    temperature: float = 0.4
    query_flops: float = 0.03
    query_l1: float = 0.0
    document_flops: float = 0.03
    document_l1: float = 0.0
    ramp_steps: int | None = None
    negatives: int = 1
    document_tokens: int = 96
    representation: Literal["sparse", "dense"] = "sparse"
    train_table: bool = True

    def __post_init__(self) -> None:
        for name in (
            "nce",
            "kl",
            "margin_mse",
            "query_flops",
            "query_l1",
            "document_flops",
            "document_l1",
        ):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}, must be >= 0")
        if self.representation not in ("sparse", "dense"):
            raise InputError(f"representation is {self.representation!r}, must be sparse or dense")
        if not self.temperature > 0:
            raise InputError(f"temperature is {self.temperature}, must be > 0")
        if self.nce + self.kl + self.margin_mse == 0:
            raise InputError(
                "nce, kl and margin_mse are all 0: nothing would be learned; set one of them"
            )
        if (self.kl or self.margin_mse) and not self.teachers:
            raise InputError(
                "kl and margin_mse need a teacher; name one that the mined files have scores of"
            )


def train_retrieval(
    model: Path,
    sources: Sequence[Source],
    out: Path,
    schedule: Schedule,
    objective: Objective,
    dev: Sequence[DevSplit] = (),
) -> bool:
    """Train and write the model to ``out``.

    It resumes from ``OUT.work``. Returns whether there was anything to do.

    Args:
        model: an adapted model directory.
        sources: where pairs come from.
        out: directory for the result, not there yet; checkpoints and the log (CSV) lie beside it in
            ``OUT.work``.
        schedule: a batch is queries with their passages.
        objective: the loss.
        dev: judged queries to watch, their passages whole; the weights that did best on them are
            kept, and with ``schedule.patience`` training stops when they get no better.

    Raises:
        InputError: ``out`` is something else, or a mined file lacks the scores of a teacher.
        IncompatibleError: ``out`` or ``OUT.work`` was made with another setting, model or data.
        TrainingError: training collapsed or blew up.
    """
    check_teachers(sources, objective.teachers)
    data = {
        "model": model_digest(model),
        "data": [source.digest() for source in sources],
        "dev": [split.digest() for split in dev],
    }
    output = Output(out, "retrieval", {**asdict(schedule), **asdict(objective), **data})
    if output.finished():
        return False
    trainable = Trainable.load(model, schedule)
    if trainable.network.query_weights is not None:
        trainable.network.query_weights.requires_grad_(objective.train_table)
    tokenizer = load_tokenizer(model, trainable.manifest)
    ending = [tokenizer.required_end()] if objective.representation == "dense" else []
    collator = Collator(tokenizer, trainable.manifest, objective.document_tokens, ending)
    trainer = _RetrievalTrainer(
        model=trainable.network,
        args=arguments(
            output,
            schedule,
            per_device_train_batch_size=1,  # the dataset gives whole batches
            # A dispatcher would cut every tensor to the length of the first one it finds, which
            # here is a query.
            accelerator_config={"dispatch_batches": False},
        ),
        train_dataset=Batches(
            sources,
            schedule.batch,
            objective.negatives,
            objective.teachers,
            schedule.seed,
            # Queries that are looked up cost next to nothing.
            every_query=trainable.network.query_weights is not None
            and objective.representation == "sparse",
        ),
        data_collator=collator,
    )
    trainer.objective = objective
    trainer.encode = encode = Representation(trainable, objective.representation)
    trainer.teacher_weights = combine_teachers(
        [mined for source in sources for mined in source.mined], objective.teachers
    )
    trainer.ramp_steps = (
        schedule.steps // 3 if objective.ramp_steps is None else objective.ramp_steps
    )
    if dev:
        whole = Collator(
            tokenizer, trainable.manifest, trainable.manifest.document_max_tokens, ending
        )
        trainer.add_callback(
            WatchDev(
                dev,
                lambda texts: encode.queries(whole.ids(texts, "query")),
                lambda texts: encode.documents(whole.ids(texts, "document")),
                trainable.network,
                schedule.evaluate_every,
                schedule.patience,
            )
        )
    run(trainer, output)
    trainable.save(output)
    return True


def check_teachers(sources: Sequence[Source], teachers: Sequence[str]) -> None:
    """Raise InputError when a mined file lacks the scores of a teacher."""
    for source in sources:
        for name in teachers:
            if name not in source.mined[0].scores:
                raise InputError(
                    f"{source.collection.name}: its mined file has no scores of {name!r}, only "
                    f"{sorted(source.mined[0].scores)}"
                )


class Representation:
    """Token ids of texts to vectors: term weights [n, Vk], or a normalized state [n, H]."""

    def __init__(self, trainable: Trainable, kind: Literal["sparse", "dense"]) -> None:
        self.network, self.kind = trainable.network, kind
        self.rows = torch.from_numpy(trainable.head.rows)
        self.counts = trainable.manifest.query_counts

    def queries(self, texts: list[Tensor]) -> Tensor:
        """Return the vectors of queries, from the table where the model has one."""
        table = self.network.query_weights
        if table is None or self.kind == "dense":
            return self.documents(texts)
        found = torch.zeros(len(texts), len(self.network.terms), device=self.network.weight.device)
        for row, ids in enumerate(texts):
            kept = self.rows[ids]
            kept = kept[kept >= 0].to(found.device)
            found[row].index_put_(
                (kept,), torch.ones(len(kept), device=found.device), accumulate=self.counts
            )
        return found * torch.relu(table)

    def documents(self, texts: list[Tensor]) -> Tensor:
        """Return the vectors of passages, run in groups of similar length."""
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        parts = []
        for start in range(0, len(order), SUB_BATCH):
            group = [texts[i] for i in order[start : start + SUB_BATCH]]
            parts.append(self._group(group))
        inverse = torch.empty(len(order), dtype=torch.int64)
        inverse[order] = torch.arange(len(order))
        return torch.cat(parts)[inverse.to(parts[0].device)]

    def _group(self, texts: list[Tensor]) -> Tensor:
        lengths = torch.tensor([len(ids) for ids in texts])
        padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True).to(
            self.network.weight.device
        )
        if self.kind == "sparse":
            weights: Tensor = self.network(padded, lengths)
            return weights
        hidden = self.network.hidden(padded, lengths)
        return F.normalize(hidden[torch.arange(len(texts)), lengths - 1].float(), dim=1)


def combine_teachers(mined: Sequence[Mined], names: Sequence[str]) -> Tensor:
    """Return one weight per teacher, float32 [n].

    They give the most likely softmax over candidates, with judged ones as the right answers.

    Up to some 4,000 queries are looked at, spread over all sources. With one judged passage a query
    the likelihood is concave in the weights; a few Newton-like steps (L-BFGS) find its maximum.

    Raises:
        InputError: no query has negatives that the teachers score differently.
    """
    if not names:
        return torch.ones(0)
    picked = [
        one
        for one in mined
        if one.negatives and all(np.ptp(one.scores[name]) > 0 for name in names)
    ]
    if not picked:
        raise InputError(
            f"teachers {list(names)}: none of {len(mined)} queries has candidates that all of "
            "them tell apart; mine deeper"
        )
    picked = picked[:: max(1, len(picked) // 4000)]
    width = max(len(one.candidates) for one in picked)
    scores = torch.zeros(len(names), len(picked), width)
    here = torch.zeros(len(picked), width, dtype=torch.bool)
    good = torch.zeros(len(picked), width, dtype=torch.bool)
    for row, one in enumerate(picked):
        here[row, : len(one.candidates)] = True
        good[row, : len(one.positives)] = True
        for teacher, name in enumerate(names):
            scores[teacher, row, : len(one.candidates)] = torch.from_numpy(one.scores[name])
    spread = scores[:, here].std(1, keepdim=True)
    weights = torch.zeros(len(names), 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        mixed = (scores * (weights / spread)[:, :, None]).sum(0)
        likely = F.log_softmax(mixed.masked_fill(~here, -torch.inf), 1)
        loss = -torch.logsumexp(likely.masked_fill(~good, -torch.inf), 1).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (weights.detach() / spread)[:, 0]


class _RetrievalTrainer(EncoderTrainer):
    objective: Objective
    encode: Representation
    teacher_weights: Tensor
    ramp_steps: int

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        wanted, positives, listed = self.objective, inputs["positives"], inputs["listed"]
        queries = self.encode.queries(inputs["queries"])
        passages = self.encode.documents(inputs["passages"])
        scores = queries @ passages.T
        teacher = torch.einsum(
            "t,tbp->bp", self.teacher_weights.to(scores.device), inputs["teacher"]
        )
        # A candidate that the teachers prefer to the judged passage is not a negative.
        ignored = inputs["ignored"] | (listed & (teacher > teacher.gather(1, positives[:, None])))
        parts = {"nce": losses.info_nce(scores / wanted.temperature, positives, ignored)}
        if wanted.kl:
            parts["kl"] = losses.kl(scores / wanted.temperature, teacher, listed)
        if wanted.margin_mse:
            parts["margin_mse"] = losses.margin_mse(
                scores / wanted.temperature, teacher, positives, listed
            )
        loss = sum(getattr(wanted, name) * part for name, part in parts.items())
        sparse = wanted.representation == "sparse"
        if sparse:
            self.watch_activity(passages.detach())
            ramp = losses.ramp(self.state.global_step, self.ramp_steps)
            parts["flops"] = (
                wanted.query_flops * losses.flops(queries)
                + wanted.query_l1 * losses.l1(queries)
                + wanted.document_flops * losses.flops(passages)
                + wanted.document_l1 * losses.l1(passages)
            )
            loss = loss + ramp * parts["flops"]
        if self.state.global_step % self.args.logging_steps == 0:
            self.log(
                {name: part.item() for name, part in parts.items()}
                | {
                    "accuracy": (scores.argmax(1) == positives).float().mean().item(),
                    "score": scores.detach().amax(1).mean().item(),
                    "query_terms": (queries > 0).sum(1).float().mean().item() if sparse else 0.0,
                    "document_terms": (passages > 0).sum(1).float().mean().item()
                    if sparse
                    else 0.0,
                    "zero": 1 - (passages != 0).any(1).float().mean().item(),
                }
            )
        return (loss, None) if return_outputs else loss
