"""``csplade evaluate``: ranking quality, sparsity, size and latency on a BEIR-format collection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import (
    Quantization,
    QueryEncoder,
    load_encoder,
    note,
    print_table,
    progress_bars,
)

if TYPE_CHECKING:
    from ..client.client import Client
    from ..engine.collection import OpenOptions
    from ..evaluation.report import Row
    from ..evaluation.systems import Task
    from ..ingest.trec import Run

Show = Callable[[str, int, int], None]


def evaluate(
    folder: Annotated[
        Path, typer.Argument(metavar="DATASET_DIR", help="corpus.jsonl, queries.jsonl, qrels/.")
    ],
    index: Annotated[
        list[Path] | None,
        typer.Option(help="Directory of an index; repeatable. Absent and with --model: built."),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="HOST:PORT of a running service; repeatable.")
    ] = None,
    run: Annotated[list[Path] | None, typer.Option(help="A TREC run; repeatable.")] = None,
    bm25: Annotated[
        bool, typer.Option("--bm25", help="Add BM25 as a baseline (needs csplade[train]).")
    ] = False,
    split: Annotated[str, typer.Option(help="Which judgments, qrels/SPLIT.tsv.")] = "test",
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="Ranking depth.")] = 1000,
    keep_self: Annotated[
        bool,
        typer.Option(
            "--keep-self",
            help="Count hits with the query's own id; by default they are left out, as BEIR does.",
        ),
    ] = False,
    sample: Annotated[
        int,
        typer.Option(min=0, help="With --index: documents to encode for docs/s; 0 leaves it out."),
    ] = 128,
    model: Annotated[
        str | None, typer.Option(help="Encoder, if not the ones that the indexes name.")
    ] = None,
    quantization: Quantization = "auto",
    query_encoder: QueryEncoder = "auto",
    key: Annotated[str | None, typer.Option(help="API key for the services.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS with the services.")] = False,
    ca: Annotated[
        Path | None, typer.Option(help="PEM file of authorities to trust; implies --tls.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure ranking quality on a BEIR-format collection; several systems are compared in one
    table.
    """
    if not (index or target or run or bm25):
        raise typer.BadParameter("give at least one", param_hint="--index, --target, --run, --bm25")
    from ..client.client import Client
    from ..core.beir import load_dataset
    from ..core.errors import CspladeError
    from ..engine.collection import OpenOptions
    from ..evaluation.systems import Task

    task = Task(load_dataset(folder, split), k, keep_self)
    systems = _Systems(
        task,
        index or [],
        target or [],
        bm25,
        sample,
        OpenOptions(model=model, quantization=quantization, query_encoder=query_encoder),
        partial(Client, key=key, tls=tls, ca=ca),
    )
    runs = systems.check(run or [])
    rows: list[Row] = []
    failure: BaseException | None = None
    with progress_bars("queries") as show:
        try:
            rows.extend(systems.measure(runs, show))
        except (CspladeError, KeyboardInterrupt) as error:
            if not rows:
                raise
            failure = error  # rows that are measured already are shown all the same
    _show(task, rows, as_json)
    if failure is not None:
        raise failure


@dataclass(frozen=True)
class _Systems:
    """What is measured, besides runs."""

    task: Task
    indexes: list[Path]
    targets: list[str]
    bm25: bool
    sample: int
    options: OpenOptions
    connect: Callable[[str], Client]

    def check(self, runs: list[Path]) -> dict[Path, Run]:
        """Read and check everything before a model is loaded or a query asked; returns the runs."""
        from ..core.errors import IncompatibleError
        from ..evaluation.bm25 import import_bm25
        from ..evaluation.measures import import_pytrec_eval
        from ..evaluation.systems import evaluate_run
        from ..index import IndexManifest
        from ..ingest.trec import read_run

        import_pytrec_eval()
        read = {path: read_run(path) for path in runs}
        for path, run in read.items():
            evaluate_run(self.task, path, run, name=str(path))
        for path in self.indexes:
            if self.options.model is not None and not (path / "index.json").is_file():
                continue
            if IndexManifest.open(path).encoder is None and self.options.model is None:
                raise IncompatibleError(
                    f"{path}: was built from ready vectors, no encoder is noted in it; name one "
                    "with --model, or measure a run of csplade search --vectors"
                )
        if self.bm25:
            import_bm25()
        if self.bm25 or (self.indexes and self.sample):
            _ = self.task.dataset.corpus
        for target in self.targets:
            with self.connect(target) as client:
                client.info()
        return read

    def measure(self, runs: dict[Path, Run], show: Show) -> Iterator[Row]:
        """Measure one system after the other."""
        from ..engine.collection import Collection
        from ..evaluation.systems import (
            evaluate_bm25,
            evaluate_index,
            evaluate_run,
            evaluate_target,
        )

        task = self.task
        for path, run in runs.items():
            yield evaluate_run(task, path, run, name=str(path))
            if run.ties:
                note(f"{path}: {run.ties:,} ties stand by rank; trec_eval orders them by id")
        for path in self.indexes:
            if not (path / "index.json").is_file():
                self._build(path, show)
            with Collection.open(path, self.options) as engine:
                told = _labelled(show, path.resolve().name)
                yield evaluate_index(
                    task, engine, name=str(path), sample=self.sample, progress=told
                )
        for target in self.targets:
            with self.connect(target) as client:
                told = _labelled(show, target)
                yield evaluate_target(task, client, name=target, progress=told)
        if self.bm25:
            yield evaluate_bm25(task, progress=_labelled(show, "BM25"))

    def _build(self, path: Path, show: Show) -> None:
        """Build an index of the dataset with the encoder; a killed build goes on where it was."""
        from ..ingest.build import build_from_corpus

        def progress(stage: str, done: int, total: int) -> None:
            show(f"{path.resolve().name}: {stage}", done, total)

        options = self.options
        build_from_corpus(
            self.task.dataset.corpus,
            path,
            lambda: load_encoder(options.model or "embedded", options.quantization),
            resume=True,
            progress=progress,
        )


def _show(task: Task, rows: list[Row], as_json: bool) -> None:
    from ..evaluation import report

    dataset = task.dataset
    if as_json:
        result = report.to_json(dataset.name, dataset.split, len(dataset.queries), rows)
        result["keep_self"] = task.keep_self
        typer.echo(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        typer.echo(
            f"{dataset.name}, {dataset.split}: {len(dataset.queries):,} judged queries, "
            f"top {task.k:,}"
        )
        headers, cells = report.quality_table(rows)
        print_table(headers, cells, left=["system"])
        headers, cells = report.latency_table(rows)
        if cells:
            typer.echo("")
            print_table(headers, cells, left=["p50 ms"])
    for row in rows:
        for what, count in row.cut.items():
            if count:
                note(f"{row.name}: {count:,} {what} were cut from the queries")
        if row.own_hits:
            note(
                f"{row.name}: {row.own_hits:,} hits with the query's own id were left out, as BEIR "
                "does; --keep-self counts them"
            )
        if row.without_ranking:
            note(
                f"{row.name}: {row.without_ranking:,} of {len(dataset.queries):,} judged queries "
                "have no ranking and count as 0"
            )
        if not any(row.measures.values()):
            note(f"{row.name}: no judged document was found; does it belong to {dataset.name}?")
    if own := sum(grades.get(query, 0) > 0 for query, grades in dataset.qrels.items()):
        note(
            f"{own:,} queries have a relevant document of their own id: where ids of queries and "
            "documents coincide by chance, give --keep-self"
        )
    if empty := sum(max(grades.values()) <= 0 for grades in dataset.qrels.values()):
        note(f"{empty:,} of {len(dataset.queries):,} judged queries have no relevant document")


def _labelled(show: Show, label: str) -> Callable[[int, int], None]:
    return lambda done, total: show(label, done, total)
