"""Batches for retrieval training: queries, their passages, which pairs are relevant, and what teachers think of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from ..manifest import Manifest
from ..tokens import Kind, tokenize
from .data import Collection
from .mine import Mined


@dataclass(frozen=True)
class Source:
    """A collection with mined candidates and its share of the queries."""

    collection: Collection
    mined: Sequence[Mined]
    share: float


class Batches(IterableDataset[dict[str, Any]]):
    """An endless stream of batches, the same for the same seed.

    Collections are mixed within a batch: with one collection a batch, weights swung between one's scale and the other's.

    Args:
        sources: where queries come from, each by its share.
        batch: queries per batch.
        negatives: mined negatives per query; all queries share all passages.
        teachers: names of the scores to hand on; none for contrastive training alone.
        seed: of the draw.
    """

    def __init__(
        self, sources: Sequence[Source], batch: int, negatives: int, teachers: Sequence[str], seed: int
    ) -> None:
        self.sources, self.batch, self.negatives = sources, batch, negatives
        self.teachers, self.seed = teachers, seed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        random = np.random.default_rng(self.seed)
        shares = np.array([source.share for source in self.sources])
        while True:
            chosen = []
            for number in random.choice(len(self.sources), self.batch, p=shares / shares.sum()):
                mined = self.sources[number].mined
                chosen.append((int(number), mined[random.integers(len(mined))]))
            yield self._batch(chosen, random)

    def _batch(self, chosen: list[tuple[int, Mined]], random: np.random.Generator) -> dict[str, Any]:
        passages: list[tuple[int, str]] = []
        listed: list[range] = []
        scores: list[NDArray[np.float32]] = []
        for number, mined in chosen:
            positive = int(random.integers(len(mined.positives)))
            negatives = random.permutation(len(mined.negatives))[: self.negatives] + len(mined.positives)
            picked = np.concatenate([[positive], negatives]).astype(np.int64)
            listed.append(range(len(passages), len(passages) + len(picked)))
            passages += [(number, mined.candidates[i]) for i in picked]
            if self.teachers:
                scores.append(np.stack([mined.scores[name][picked] for name in self.teachers]))
        relevant = [{(number, passage) for passage in mined.positives} for number, mined in chosen]
        teacher = np.zeros((len(self.teachers), len(chosen), len(passages)), dtype=np.float32)
        own = np.zeros((len(chosen), len(passages)), dtype=np.bool_)
        for row, columns in enumerate(listed):
            own[row, columns.start : columns.stop] = True
            if self.teachers:
                teacher[:, row, columns.start : columns.stop] = scores[row]
        return {
            "queries": [self.sources[number].collection.queries[mined.query] for number, mined in chosen],
            "passages": [self.sources[number].collection.passages[passage] for number, passage in passages],
            "positives": torch.tensor([columns.start for columns in listed]),
            "ignored": torch.tensor(
                [
                    [passage in good and column != columns.start for column, passage in enumerate(passages)]
                    for good, columns in zip(relevant, listed, strict=True)
                ]
            ),
            "listed": torch.from_numpy(own),
            "teacher": torch.from_numpy(teacher),
        }


class Collator:
    """Texts of a batch to token ids; passages are cut to ``document_tokens`` while training."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        manifest: Manifest,
        document_tokens: int,
        ending: Sequence[int] = (),
    ) -> None:
        self.tokenizer, self.manifest, self.ending = (
            tokenizer,
            manifest,
            torch.tensor(ending, dtype=torch.int64),
        )
        self.caps = {"query": manifest.query_max_tokens, "document": document_tokens}

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """One batch of :class:`Batches`, its texts as ids."""
        (batch,) = examples
        return {
            **batch,
            "queries": self.ids(batch["queries"], "query"),
            "passages": self.ids(batch["passages"], "document"),
        }

    def ids(self, texts: Sequence[str], kind: Kind) -> list[Tensor]:
        """int64 ids of each text."""
        rows = tokenize(self.tokenizer, self.manifest, texts, kind).ids
        return [
            torch.cat([torch.from_numpy(row[: self.caps[kind]].astype(np.int64)), self.ending])
            for row in rows
        ]
