"""The study: what adaptation, attention, losses, size, regularizers and term caps do, each as one
table.

The questions are those of CSPLADE (adaptation, attention variants), of "Scaling Sparse and Dense
Retrieval in Decoder-Only LLMs" (losses, sparse against dense, three sizes) and of SPLADE (FLOPS
weight, term caps), asked at a size that a CPU can answer. Every model of a table starts from the
same data and seed (:mod:`.study_models`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..model.training.trainer import LOG_FILE
from .study_models import StudyModels

POSTING_BYTES = 3


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


class Study:
    """Asks the models of a study for its tables.

    Args:
        models: trained when a table asks for them.
    """

    def __init__(self, models: StudyModels) -> None:
        self.models = models

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
        middle = self.models.scale.layers[1]
        bases = {
            "none": self.models.start(middle),
            "adaptation": self.models.adapted(middle),
            "adaptation, calibration": self.models.calibrated(middle),
        }
        rows = []
        for name, base in bases.items():
            trained = self.models.trained(base)
            log = _read_log(trained)
            found = self.models.measure(trained)
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
        middle = self.models.scale.layers[1]
        return self._compare(
            "b) Attention",
            {
                variant: (self.models.calibrated(middle, variant), {})
                for variant in ("causal", "echo", "bidirectional")
            },
        )

    def losses(self) -> Table:
        """c) Contrastive, distillation, both; sparse and dense; three sizes."""
        rows = []
        for layers in self.models.scale.layers:
            for kind in ("sparse", "dense"):
                cells = []
                for weights in LOSSES.values():
                    if kind == "sparse":
                        trained = self.models.trained(self.models.calibrated(layers), **weights)
                    else:
                        dense = {"representation": "dense", "temperature": DENSE_TEMPERATURE}
                        trained = self.models.trained(
                            self.models.adapted(layers), **weights, **dense
                        )
                    cells.append(f"{self.models.measure(trained, kind).mean:.3f}")
                rows.append([str(layers), kind, *cells])
        return Table("c) Losses and sizes, nDCG@10", ["layers", "vectors", *LOSSES], rows)

    def regularizers(self) -> Table:
        """d) The FLOPS weight."""
        base = self.models.calibrated(self.models.scale.layers[1])
        return self._compare(
            "d) FLOPS weight",
            {
                str(weight): (base, {"query_flops": weight, "document_flops": weight})
                for weight in (0.0, 0.01, 0.03, 0.1, 0.3)
            },
        )

    def caps(self) -> Table:
        """e) Keeping only the largest terms of a vector, query x document."""
        vectors = self.models.vectors(
            self.models.trained(self.models.calibrated(self.models.scale.layers[1])), "sparse"
        )
        caps = (8, 16, 32, 64, 128, 512)
        rows = []
        for query in caps:
            found = [self.models.judge(vectors, query, document).mean for document in caps]
            rows.append([str(query), *(f"{mean:.3f}" for mean in found)])
        return Table("e) Term caps, nDCG@10", ["query \\ document", *map(str, caps)], rows)

    def _compare(self, title: str, models: dict[str, tuple[Path, dict[str, Any]]]) -> Table:
        rows = []
        for name, (base, values) in models.items():
            found = self.models.measure(self.models.trained(base, **values))
            quality = [*found.ndcg.values(), found.mean]
            costs = [found.query_terms, found.document_terms, POSTING_BYTES * found.document_terms]
            rows.append(
                [name, *(f"{value:.3f}" for value in quality), *(f"{value:.0f}" for value in costs)]
            )
        names = [split.name for split in self.models.dev]
        headers = [
            "",
            *names,
            "mean nDCG@10",
            "query terms",
            "document terms",
            "posting bytes/document",
        ]
        return Table(title, headers, rows)


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
