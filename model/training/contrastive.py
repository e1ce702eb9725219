"""The contrastive phase: InfoNCE over in-batch and BM25 hard negatives, FLOPS regularizers with a quadratic ramp.

Loss (CSPLADE section 3.3): ``InfoNCE(q . d / temperature) + query_flops * ramp * FLOPS(Q) + document_flops * ramp * FLOPS(D)``.
Batches mix the collections: with one collection a batch, weights swung between one's scale and the other's. A passage
that is judged relevant for a query is never its negative.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ..load import load_tokenizer
from ..manifest import Manifest
from ..network import SparseNetwork
from ..tokens import Kind, tokenize
from . import losses
from .data import Collection
from .trainer import EncoderTrainer, Schedule, arguments, run, save_model, trainable_network

SUB_BATCH = 16  # texts of like length that run together, so that padding stays small


@dataclass(frozen=True)
class Source:
    """A collection with mined negatives and its share of the queries."""

    collection: Collection
    mined: Sequence[tuple[str, list[str], list[str]]]
    share: float


def contrastive(
    model: Path,
    sources: Sequence[Source],
    out: Path,
    schedule: Schedule,
    *,
    negatives: int = 1,
    temperature: float = 0.4,
    query_flops: float = 0.03,
    document_flops: float = 0.03,
    ramp_steps: int | None = None,
    document_tokens: int = 96,
) -> None:
    """Run the contrastive phase and write the trained model to ``out``; resumes from ``out``'s checkpoints.

    Args:
        model: an adapted model directory.
        sources: where pairs come from.
        out: directory for the result; checkpoints lie beside it in ``OUT.work``.
        schedule: a batch is queries with their passages.
        negatives: hard negatives per query; the passages of all queries are shared.
        temperature: scores are divided by it.
        query_flops: weight of the query regularizer at full ramp.
        document_flops: weight of the document regularizer at full ramp.
        ramp_steps: steps of the quadratic ramp; a third of ``steps`` by default.
        document_tokens: passages are cut here while training.
    """
    manifest = Manifest.load(model)
    torch.manual_seed(schedule.seed)
    network, adapted = trainable_network(model, manifest, rank=schedule.rank, device=schedule.device)
    trainer = _ContrastiveTrainer(
        model=network,
        args=arguments(
            out,
            schedule,
            per_device_train_batch_size=1,  # the dataset gives whole batches
            # A dispatcher would cut every tensor to the length of the first one it finds, which here is a query.
            accelerator_config={"dispatch_batches": False},
        ),
        train_dataset=_Batches(sources, schedule.batch, negatives, schedule.seed),
        data_collator=_Collator(load_tokenizer(model, manifest), manifest, document_tokens),
    )
    trainer.temperature = temperature
    trainer.flops = (query_flops, document_flops)
    trainer.ramp_steps = schedule.steps // 3 if ramp_steps is None else ramp_steps
    run(trainer)
    save_model(out, network, adapted, manifest)


class _Batches(IterableDataset[dict[str, Any]]):
    """An endless stream of batches: queries drawn from all sources by their shares, and their passages."""

    def __init__(self, sources: Sequence[Source], batch: int, negatives: int, seed: int) -> None:
        self.sources, self.batch, self.negatives, self.seed = sources, batch, negatives, seed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        random = np.random.default_rng(self.seed)
        shares = np.array([source.share for source in self.sources])
        while True:
            queries, relevant, positives = [], [], []
            passages: list[tuple[int, str]] = []
            for number in random.choice(len(self.sources), self.batch, p=shares / shares.sum()):
                source = self.sources[number]
                query, good, hard = source.mined[random.integers(len(source.mined))]
                queries.append(source.collection.queries[query])
                relevant.append({(number, passage) for passage in good})
                positives.append(len(passages))
                passages.append((number, good[random.integers(len(good))]))
                few = min(self.negatives, len(hard))
                passages += [(number, hard[i]) for i in random.choice(len(hard), few, replace=False)]
            yield {
                "queries": queries,
                "passages": [
                    self.sources[number].collection.passages[passage] for number, passage in passages
                ],
                "positives": positives,
                "ignored": [
                    [passage in good and column != positive for column, passage in enumerate(passages)]
                    for good, positive in zip(relevant, positives, strict=True)
                ],
            }


class _Collator:
    def __init__(self, tokenizer: Any, manifest: Manifest, document_tokens: int) -> None:
        self.tokenizer, self.manifest, self.document_tokens = tokenizer, manifest, document_tokens

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        (example,) = examples
        return {
            "queries": self._ids(example["queries"], "query", self.manifest.query_max_tokens),
            "passages": self._ids(example["passages"], "document", self.document_tokens),
            "positives": torch.tensor(example["positives"]),
            "ignored": torch.tensor(example["ignored"]),
        }

    def _ids(self, texts: list[str], kind: Kind, cap: int) -> list[Tensor]:
        ids = tokenize(self.tokenizer, self.manifest, texts, kind).ids
        return [torch.from_numpy(row[:cap].astype(np.int64)) for row in ids]


class _ContrastiveTrainer(EncoderTrainer):
    temperature: float
    flops: tuple[float, float]
    ramp_steps: int

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        queries = weights_of(model, inputs["queries"])
        passages = weights_of(model, inputs["passages"])
        scores = queries @ passages.T / self.temperature
        nce = losses.info_nce(scores, inputs["positives"], inputs["ignored"])
        ramp = losses.ramp(self.state.global_step, self.ramp_steps)
        regularizer = self.flops[0] * losses.flops(queries) + self.flops[1] * losses.flops(passages)
        if self.state.global_step % self.args.logging_steps == 0:
            self.log(
                {
                    "nce": nce.item(),
                    "flops": regularizer.item(),
                    "accuracy": (scores.argmax(1) == inputs["positives"]).float().mean().item(),
                    "query_terms": (queries > 0).sum(1).float().mean().item(),
                    "document_terms": (passages > 0).sum(1).float().mean().item(),
                    "score": scores.detach().amax(1).mean().item(),
                }
            )
        loss = nce + ramp * regularizer
        return (loss, None) if return_outputs else loss


def weights_of(network: SparseNetwork, texts: list[Tensor]) -> Tensor:
    """Weights [n, Vk] of token-id rows of any length, run in groups of like length."""
    device = network.weight.device
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    parts = []
    for start in range(0, len(order), SUB_BATCH):
        group = [texts[i] for i in order[start : start + SUB_BATCH]]
        lengths = torch.tensor([len(ids) for ids in group])
        padded = torch.nn.utils.rnn.pad_sequence(group, batch_first=True)
        parts.append(network(padded.to(device), lengths))
    inverse = torch.empty(len(order), dtype=torch.int64)
    inverse[order] = torch.arange(len(order))
    return torch.cat(parts)[inverse.to(device)]
