"""Batches for retrieval training: queries, passages, relevance and teachers' scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ..checkpoint.manifest import Manifest
from ..tokenizer import Tokenizer
from ..tokens import Kind, tokenize
from .data import Collection
from .mine import Mined
from .output import digest


@dataclass(frozen=True)
class Source:
    """A collection with mined candidates and its share of the queries."""

    collection: Collection
    mined: Sequence[Mined]
    share: float

    def digest(self) -> str:
        """Return a hash of all that a batch may hold."""
        mined = (
            text
            for one in self.mined
            for text in (
                one.query,
                *one.candidates,
                *(f"{name} {scores.tolist()}" for name, scores in one.scores.items()),
            )
        )
        return digest([self.collection.digest(), str(self.share), *mined])


class Batches(IterableDataset[dict[str, Any]]):
    """An endless stream of batches, the same for the same seed.

    Collections are mixed within a batch: with one collection a batch, weights swung between one's
    scale and the other's.

    Args:
        sources: where queries come from, each by its share.
        batch: queries drawn per batch.
        negatives: mined negatives that come with each; all queries share all passages.
        teachers: names of the scores to hand on; none for contrastive training alone.
        seed: of the draw.
        every_query: ask also all other training queries whose judged passage came into the batch.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        batch: int,
        negatives: int,
        teachers: Sequence[str],
        seed: int,
        *,
        every_query: bool = False,
    ) -> None:
        self.sources, self.batch, self.negatives = sources, batch, negatives
        self.teachers, self.seed = teachers, seed
        self.judged: dict[tuple[int, str], list[Mined]] = {}
        if every_query:
            for number, source in enumerate(sources):
                for mined in source.mined:
                    for passage in mined.positives:
                        self.judged.setdefault((number, passage), []).append(mined)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        random = np.random.default_rng(self.seed)
        shares = np.array([source.share for source in self.sources])
        while True:
            drawn = []
            for number in random.choice(len(self.sources), self.batch, p=shares / shares.sum()):
                mined = self.sources[number].mined
                drawn.append((int(number), mined[random.integers(len(mined))]))
            yield self._batch(drawn, random)

    def _batch(self, drawn: list[tuple[int, Mined]], random: np.random.Generator) -> dict[str, Any]:
        place: dict[tuple[int, str], int] = {}
        asked: list[tuple[int, Mined, int]] = []
        for number, mined in drawn:
            judged = mined.positives[random.integers(len(mined.positives))]
            negatives = random.permutation(len(mined.negatives))[: self.negatives]
            for passage in (judged, *(mined.negatives[i] for i in negatives)):
                place.setdefault((number, passage), len(place))
            asked.append((number, mined, place[number, judged]))
        known = {(number, mined.query) for number, mined, _ in asked}
        for (number, passage), column in place.items():
            for mined in self.judged.get((number, passage), ()):
                if (number, mined.query) not in known:
                    known.add((number, mined.query))
                    asked.append((number, mined, column))
        teacher = np.zeros((len(self.teachers), len(asked), len(place)), dtype=np.float32)
        listed, relevant = np.zeros((2, len(asked), len(place)), dtype=np.bool_)
        for row, (number, mined, _) in enumerate(asked):
            for i, passage in enumerate(mined.candidates):
                column = place.get((number, passage), -1)
                if column >= 0:
                    listed[row, column] = True
                    relevant[row, column] = i < len(mined.positives)
                    teacher[:, row, column] = [mined.scores[name][i] for name in self.teachers]
        positives = np.array([column for _, _, column in asked])
        relevant[np.arange(len(asked)), positives] = False
        return {
            "queries": [
                self.sources[number].collection.queries[mined.query] for number, mined, _ in asked
            ],
            "passages": [
                self.sources[number].collection.passages[passage] for number, passage in place
            ],
            "positives": torch.from_numpy(positives),
            "ignored": torch.from_numpy(relevant),
            "listed": torch.from_numpy(listed),
            "teacher": torch.from_numpy(teacher),
        }


class Collator:
    """Texts of a batch to token ids; passages are cut to ``document_tokens`` while training."""

    def __init__(
        self,
        tokenizer: Tokenizer,
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
        """Return one batch of :class:`Batches`, its texts as ids."""
        (batch,) = examples
        return {
            **batch,
            "queries": self.ids(batch["queries"], "query"),
            "passages": self.ids(batch["passages"], "document"),
        }

    def ids(self, texts: Sequence[str], kind: Kind) -> list[Tensor]:
        """Return the int64 ids of each text."""
        rows = tokenize(self.tokenizer, self.manifest, texts, kind).ids
        return [
            torch.cat([torch.from_numpy(row[: self.caps[kind]].astype(np.int64)), self.ending])
            for row in rows
        ]
