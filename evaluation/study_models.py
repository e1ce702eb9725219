"""The models of a study: each is trained once, from the same data and seed, and measured on dev
samples.

A model that is finished is not trained again, so a study that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.resume import open_work
from ..model.checkpoint.manifest import FILE_NAME, Manifest
from ..model.checkpoint.tokenizer import load_tokenizer
from ..model.training.adapt import adapt
from ..model.training.calibrate import calibrate
from ..model.training.data import Collection
from ..model.training.dev import DevSplit
from ..model.training.mine import mine, read_mined
from ..model.training.pairs import Collator, Source
from ..model.training.retrieval import Objective, Representation, train_retrieval
from ..model.training.start import start
from ..model.training.teachers import Teacher
from ..model.training.trainer import Schedule, Trainable

Kind = Literal["sparse", "dense"]
Vectors = list[
    tuple[NDArray[np.float32], NDArray[np.float32]]
]  # queries and passages of each collection


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        layers: three sizes, the middle one for all tables but that of sizes.
        adapt, calibrate, train: steps of the phases.
        batch: queries per step.
        queries, passages: of each collection's dev sample.
        tokens: of a passage while training.
        mined: training queries mined per collection, in a pool of ``pool`` passages.
    """

    layers: tuple[int, int, int]
    adapt: int
    calibrate: int
    train: int
    batch: int
    tokens: int
    queries: int
    passages: int
    mined: int
    pool: int


SCALES = {
    "toy": Scale(
        (1, 2, 3),
        adapt=30,
        calibrate=15,
        train=15,
        batch=8,
        tokens=96,
        queries=40,
        passages=120,
        mined=400,
        pool=500,
    ),
    "full": Scale(
        (4, 8, 12),
        adapt=100,
        calibrate=60,
        train=60,
        batch=12,
        tokens=64,
        queries=100,
        passages=300,
        mined=2000,
        pool=4000,
    ),
}


@dataclass(frozen=True)
class Measured:
    """A model on the dev samples: nDCG@10 by collection, mean active terms."""

    ndcg: dict[str, float]
    query_terms: float
    document_terms: float

    @property
    def mean(self) -> float:
        """Mean nDCG@10."""
        return float(np.mean(list(self.ndcg.values())))


class StudyModels:
    """Trains and measures models; one that is finished is not trained again.

    Args:
        folders: BEIR folders with ``train`` and ``dev`` judgments.
        work: directory for models, mined files and logs; kept.
        scale: steps, layers and samples.
        teachers: makes the teachers, anew for every collection.
        seed: of all random choices.
        progress: called with what is trained next.

    Raises:
        InputError: ``work`` holds something that no study made.
        IncompatibleError: ``work`` is of a study with another setting, teacher or collection.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        work: Path,
        scale: Scale,
        teachers: Callable[[], Sequence[Teacher]],
        *,
        seed: int = 0,
        progress: Callable[[str], None] = lambda what: None,
    ) -> None:
        self.folders, self.work, self.scale, self.seed = list(folders), work, scale, seed
        self.teachers, self.progress = teachers, progress
        settings = {
            "collections": {
                f"{folder.name}/{split}": Collection.load(folder, split).digest()
                for folder in folders
                for split in ("train", "dev")
            },
            "scale": asdict(scale),
            "teachers": {teacher.name: teacher.identity for teacher in teachers()},
            "seed": seed,
        }
        open_work(work, settings)
        self.dev = [
            DevSplit.load(folder, queries=scale.queries, passages=scale.passages, seed=seed)
            for folder in self.folders
        ]

    def start(self, layers: int, variant: str = "bidirectional") -> Path:
        """Return a model with its head prepared and nothing trained."""
        return self._made(
            f"start-{variant}-{layers}",
            lambda out: start(self._texts(), out, variant=variant, layers=layers),
        )

    def adapted(self, layers: int, variant: str = "bidirectional") -> Path:
        """Return a model after adaptation."""
        base = self.start(layers, variant)
        schedule = self._schedule(self.scale.adapt, 6e-4, batch=8)
        return self._made(
            f"adapted-{variant}-{layers}",
            lambda out: adapt(base, list(self._texts()), out, schedule),
        )

    def calibrated(self, layers: int, variant: str = "bidirectional") -> Path:
        """Return a model after adaptation and calibration."""
        base = self.adapted(layers, variant)
        schedule = self._schedule(self.scale.calibrate, 5e-4, batch=24)
        return self._made(
            f"calibrated-{variant}-{layers}",
            lambda out: calibrate(
                base, list(self._texts()), out, schedule, length=self.scale.tokens
            ),
        )

    def trained(self, base: Path, **values: Any) -> Path:
        """Return a model after retrieval training; ``values`` are those of its objective."""
        teachers = tuple(teacher.name for teacher in self.teachers()) if values.get("kl") else ()
        objective = Objective(**values, teachers=teachers, document_tokens=self.scale.tokens)
        label = (
            f"{objective.representation}-nce{objective.nce}-kl{objective.kl}"
            f"-flops{objective.query_flops}-{objective.document_flops}"
        )
        schedule = self._schedule(self.scale.train, 1e-4, batch=self.scale.batch)
        return self._made(
            f"{base.name}-{label}",
            lambda out: train_retrieval(base, self._sources(), out, schedule, objective),
        )

    def _schedule(self, steps: int, rate: float, batch: int) -> Schedule:
        return Schedule(steps=steps, rate=rate, batch=batch, rank=32, seed=self.seed)

    def _made(self, name: str, make: Callable[[Path], object]) -> Path:
        out = self.work / name
        if not (out / FILE_NAME).is_file():
            self.progress(name)
            make(out)
        return out

    def _texts(self) -> Iterator[str]:
        for folder in self.folders:
            yield from Collection.load(folder).passages.values()

    def _sources(self) -> list[Source]:
        sources = []
        for folder in self.folders:
            collection, out = Collection.load(folder, "train"), self.work / f"{folder.name}.jsonl"
            limit, pool = self.scale.mined, self.scale.pool
            mine(collection, out, self.teachers(), depth=10, limit=limit, pool=pool, seed=self.seed)
            sources.append(Source(collection, read_mined(out, collection), 1.0))
        return sources

    def measure(self, model: Path, kind: Kind = "sparse") -> Measured:
        """Return how a model ranks the dev samples, with its own caps."""
        vectors = self.vectors(model, kind)
        if kind == "dense":
            return self.judge(vectors)
        manifest = Manifest.load(model)
        return self.judge(vectors, manifest.query_max_terms, manifest.document_max_terms)

    def vectors(self, model: Path, kind: Kind) -> Vectors:
        """Of queries and passages of every dev sample, none cut."""
        trainable = Trainable.load(model, self._schedule(1, 1e-4, 1))
        manifest = trainable.manifest
        tokenizer = load_tokenizer(model, manifest)
        ending = [tokenizer.required_end()] if kind == "dense" else []
        collator = Collator(tokenizer, manifest, manifest.document_max_tokens, ending)
        encode = Representation(trainable, kind)
        with torch.inference_mode():
            return [
                (
                    encode.queries(collator.ids(split.queries, "query")).float().numpy(),
                    encode.documents(collator.ids(split.passages, "document")).float().numpy(),
                )
                for split in self.dev
            ]

    def judge(
        self, vectors: Vectors, query_cap: int | None = None, document_cap: int | None = None
    ) -> Measured:
        """Return how vectors rank the dev samples, each cut to its largest terms."""
        ndcg, query_terms, document_terms = {}, [], []
        for split, (queries, passages) in zip(self.dev, vectors, strict=True):
            queries, passages = _largest(queries, query_cap), _largest(passages, document_cap)
            ndcg[split.name] = split.ndcg(queries @ passages.T)
            query_terms.append(float((queries > 0).sum(1).mean()))
            document_terms.append(float((passages > 0).sum(1).mean()))
        return Measured(ndcg, float(np.mean(query_terms)), float(np.mean(document_terms)))


def _largest(weights: NDArray[np.float32], cap: int | None) -> NDArray[np.float32]:
    """Rows with all but their ``cap`` largest weights set to zero."""
    if cap is None or cap >= weights.shape[1]:
        return weights
    kept = np.argpartition(-weights, cap - 1, axis=1)[:, :cap]
    cut = np.zeros_like(weights)
    np.put_along_axis(cut, kept, np.take_along_axis(weights, kept, axis=1), axis=1)
    return cut
