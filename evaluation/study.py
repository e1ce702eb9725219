"""The study: what adaptation, attention, losses, size, regularizers and term caps do, each as one
table.

The questions are those of CSPLADE (adaptation, attention variants), of "Scaling Sparse and Dense
Retrieval in Decoder-Only LLMs" (losses, sparse against dense, three sizes) and of SPLADE (FLOPS
weight, term caps), asked at a size that a CPU can answer. Every model of a table starts from the
same data and seed. A model that is finished is not trained again, so a study that was stopped goes
on where it was.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.files import begun_with
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
from ..model.training.trainer import LOG_FILE, Schedule, Trainable

Kind = Literal["sparse", "dense"]
Vectors = list[
    tuple[NDArray[np.float32], NDArray[np.float32]]
]  # queries and passages of each collection
POSTING_BYTES = 3


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
LOSSES = {
    "CL": {"nce": 1.0, "kl": 0.0},
    "KD": {"nce": 0.0, "kl": 1.0},
    "CL+KD": {"nce": 0.5, "kl": 0.5},
}
DENSE_TEMPERATURE = 0.05


@dataclass(frozen=True)
class Table:
    """One table of the study."""

    title: str
    headers: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """As Markdown, title first."""
        lines = [self.headers, ["---"] * len(self.headers), *self.rows]
        return (
            f"### {self.title}\n\n"
            + "\n".join("| " + " | ".join(line) + " |" for line in lines)
            + "\n"
        )


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


class Study:
    """Trains and measures what the tables ask for.

    Args:
        folders: BEIR folders with ``train`` and ``dev`` judgments.
        work: directory for models, mined files and logs; kept.
        scale: how much.
        teachers: makes the teachers, anew for every collection.
        seed: of everything drawn.
        progress: told what is about to happen.

    Raises:
        InputError: ``work`` is of a study with other settings.
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
        work.mkdir(parents=True, exist_ok=True)
        names = [teacher.name for teacher in teachers()]
        begun = {
            "collections": [folder.name for folder in folders],
            "scale": asdict(scale),
            "teachers": names,
        }
        begun_with(work / "study.json", begun | {"seed": seed})
        self.dev = [
            DevSplit.load(folder, queries=scale.queries, passages=scale.passages, seed=seed)
            for folder in self.folders
        ]

    def tables(self, wanted: str) -> Iterator[Table]:
        """The tables named by the letters of ``wanted``, each when it is done."""
        makers = {
            "a": self.adaptation,
            "b": self.attention,
            "c": self.losses,
            "d": self.regularizers,
            "e": self.caps,
        }
        for letter in wanted:
            yield makers[letter]()

    def adaptation(self) -> Table:
        """a) Contrastive training with and without the phases before it."""
        middle = self.scale.layers[1]
        bases = {
            "none": self._start(middle),
            "adaptation": self._adapted(middle),
            "adaptation, calibration": self._calibrated(middle),
        }
        rows = []
        for name, base in bases.items():
            trained = self._trained(base)
            log = _read_log(trained)
            found = self._measure(trained)
            rows.append(
                [name]
                + [f"{_at(log['zero'], share):.2f}" for share in (0.0, 0.5, 1.0)]
                + [f"{_at(log['document_terms'], share):.0f}" for share in (0.0, 0.5, 1.0)]
                + [f"{_at(log['nce'], share):.2f}" for share in (0.0, 0.5, 1.0)]
                + [f"{found.mean:.3f}"]
            )
        headers = ["before contrastive training"]
        headers += [
            f"{what}, {when}"
            for what in ("all-zero", "terms", "NCE")
            for when in ("start", "half", "end")
        ]
        return Table("a) Adaptation", [*headers, "nDCG@10"], rows)

    def attention(self) -> Table:
        """b) Causal, echo, bidirectional."""
        middle = self.scale.layers[1]
        return self._compare(
            "b) Attention",
            {
                variant: (self._calibrated(middle, variant), {})
                for variant in ("causal", "echo", "bidirectional")
            },
        )

    def losses(self) -> Table:
        """c) Contrastive, distillation, both; sparse and dense; three sizes."""
        rows = []
        for layers in self.scale.layers:
            for kind in ("sparse", "dense"):
                cells = []
                for weights in LOSSES.values():
                    if kind == "sparse":
                        trained = self._trained(self._calibrated(layers), **weights)
                    else:
                        dense = {"representation": "dense", "temperature": DENSE_TEMPERATURE}
                        trained = self._trained(self._adapted(layers), **weights, **dense)
                    cells.append(f"{self._measure(trained, kind).mean:.3f}")
                rows.append([str(layers), kind, *cells])
        return Table("c) Losses and sizes, nDCG@10", ["layers", "vectors", *LOSSES], rows)

    def regularizers(self) -> Table:
        """d) The FLOPS weight."""
        base = self._calibrated(self.scale.layers[1])
        return self._compare(
            "d) FLOPS weight",
            {
                str(weight): (base, {"query_flops": weight, "document_flops": weight})
                for weight in (0.0, 0.01, 0.03, 0.1, 0.3)
            },
        )

    def caps(self) -> Table:
        """e) Keeping only the largest terms of a vector, query x document."""
        vectors = self._vectors(self._trained(self._calibrated(self.scale.layers[1])), "sparse")
        caps = (8, 16, 32, 64, 128, 512)
        rows = []
        for query in caps:
            found = [self._judge(vectors, query, document).mean for document in caps]
            rows.append([str(query), *(f"{mean:.3f}" for mean in found)])
        return Table("e) Term caps, nDCG@10", ["query \\ document", *map(str, caps)], rows)

    def _compare(self, title: str, models: dict[str, tuple[Path, dict[str, Any]]]) -> Table:
        rows = []
        for name, (base, values) in models.items():
            found = self._measure(self._trained(base, **values))
            quality = [*found.ndcg.values(), found.mean]
            costs = [found.query_terms, found.document_terms, POSTING_BYTES * found.document_terms]
            rows.append(
                [name, *(f"{value:.3f}" for value in quality), *(f"{value:.0f}" for value in costs)]
            )
        names = [split.name for split in self.dev]
        headers = [
            "",
            *names,
            "mean nDCG@10",
            "query terms",
            "document terms",
            "posting bytes/document",
        ]
        return Table(title, headers, rows)

    def _start(self, layers: int, variant: str = "bidirectional") -> Path:
        return self._made(
            f"start-{variant}-{layers}",
            lambda out: start(self._texts(), out, variant=variant, layers=layers),
        )

    def _adapted(self, layers: int, variant: str = "bidirectional") -> Path:
        base = self._start(layers, variant)
        schedule = self._schedule(self.scale.adapt, 6e-4, batch=8)
        return self._made(
            f"adapted-{variant}-{layers}",
            lambda out: adapt(base, list(self._texts()), out, schedule),
        )

    def _calibrated(self, layers: int, variant: str = "bidirectional") -> Path:
        base = self._adapted(layers, variant)
        schedule = self._schedule(self.scale.calibrate, 5e-4, batch=24)
        return self._made(
            f"calibrated-{variant}-{layers}",
            lambda out: calibrate(
                base, list(self._texts()), out, schedule, length=self.scale.tokens
            ),
        )

    def _trained(self, base: Path, **values: Any) -> Path:
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

    def _measure(self, model: Path, kind: Kind = "sparse") -> Measured:
        vectors = self._vectors(model, kind)
        if kind == "dense":
            return self._judge(vectors)
        manifest = Manifest.load(model)
        return self._judge(vectors, manifest.query_max_terms, manifest.document_max_terms)

    def _vectors(self, model: Path, kind: Kind) -> Vectors:
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

    def _judge(
        self, vectors: Vectors, query_cap: int | None = None, document_cap: int | None = None
    ) -> Measured:
        ndcg, query_terms, document_terms = {}, [], []
        for split, (queries, passages) in zip(self.dev, vectors, strict=True):
            queries, passages = _largest(queries, query_cap), _largest(passages, document_cap)
            ndcg[split.name] = split.ndcg(queries @ passages.T)
            query_terms.append(float((queries > 0).sum(1).mean()))
            document_terms.append(float((passages > 0).sum(1).mean()))
        return Measured(ndcg, float(np.mean(query_terms)), float(np.mean(document_terms)))


def split_judgments(folder: Path, out: Path) -> Path:
    """Copy a BEIR folder that has ``test`` judgments only, two of three queries as ``train`` and
    the third as ``dev``.
    """
    (out / "qrels").mkdir(parents=True, exist_ok=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (out / name).write_bytes((folder / name).read_bytes())
    with open(folder / "qrels" / "test.tsv", encoding="utf-8") as file:
        header, *lines = file.read().splitlines()
    numbers = {
        query: i for i, query in enumerate(dict.fromkeys(line.split("\t")[0] for line in lines))
    }
    for split, chosen in (("train", (0, 1)), ("dev", (2,))):
        kept = [line for line in lines if numbers[line.split("\t")[0]] % 3 in chosen]
        (out / "qrels" / f"{split}.tsv").write_text(
            "\n".join([header, *kept]) + "\n", encoding="utf-8"
        )
    return out


def _largest(weights: NDArray[np.float32], cap: int | None) -> NDArray[np.float32]:
    """Rows with all but their ``cap`` largest weights set to zero."""
    if cap is None or cap >= weights.shape[1]:
        return weights
    kept = np.argpartition(-weights, cap - 1, axis=1)[:, :cap]
    cut = np.zeros_like(weights)
    np.put_along_axis(cut, kept, np.take_along_axis(weights, kept, axis=1), axis=1)
    return cut


def _read_log(model: Path) -> dict[str, list[float]]:
    log: dict[str, list[float]] = {}
    with open(
        model.with_name(model.name + ".work") / LOG_FILE, encoding="utf-8", newline=""
    ) as file:
        for row in csv.DictReader(file):
            log.setdefault(row["name"], []).append(float(row["value"]))
    return log


def _at(values: Sequence[float], share: float) -> float:
    """The value logged a share of the way through training."""
    return values[round(share * (len(values) - 1))]
