"""``csplade evaluate``: ranking quality, sparsity, size and latency on a BEIR-format collection."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import note, print_table, progress_bars

if TYPE_CHECKING:
    from ..core.beir import Dataset
    from ..evaluation.report import Row

Show = Callable[[str, int, int], None]


def evaluate(
    folder: Annotated[
        Path, typer.Argument(metavar="DATASET_DIR", help="corpus.jsonl, queries.jsonl, qrels/.")
    ],
    index: Annotated[
        list[Path] | None, typer.Option(help="Directory of an index; repeatable.")
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
    sample: Annotated[
        int,
        typer.Option(min=0, help="With --index: documents to encode for docs/s; 0 leaves it out."),
    ] = 128,
    model: Annotated[
        str | None, typer.Option(help="Encoder, if not the ones that the indexes name.")
    ] = None,
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
    from ..core.beir import load_dataset
    from ..evaluation import report
    from ..evaluation.systems import evaluate_bm25, evaluate_run

    dataset = load_dataset(folder, split)
    rows = [evaluate_run(dataset, path, name=str(path)) for path in run or ()]
    with progress_bars("queries") as show:
        rows += [_index(dataset, path, model, k, sample, show) for path in index or ()]
        rows += [_target(dataset, one, k, show, key=key, tls=tls, ca=ca) for one in target or ()]
        if bm25:
            rows.append(evaluate_bm25(dataset, k, progress=_labelled(show, "BM25")))
    if as_json:
        result = report.to_json(dataset.name, split, len(dataset.queries), rows)
        typer.echo(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        typer.echo(f"{dataset.name}, {split}: {len(dataset.queries):,} judged queries, top {k:,}")
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
        if not any(row.measures.values()):
            note(f"{row.name}: no judged document was found; does it belong to {dataset.name}?")


def _index(dataset: Dataset, path: Path, model: str | None, k: int, sample: int, show: Show) -> Row:
    from ..engine.collection import Collection
    from ..evaluation.systems import evaluate_index

    with Collection.open(path, model=model) as engine:
        progress = _labelled(show, path.resolve().name)
        return evaluate_index(dataset, engine, k, name=str(path), sample=sample, progress=progress)


def _target(
    dataset: Dataset,
    target: str,
    k: int,
    show: Show,
    *,
    key: str | None,
    tls: bool,
    ca: Path | None,
) -> Row:
    from ..client.client import Client
    from ..evaluation.systems import evaluate_target

    with Client(target, key=key, tls=tls, ca=ca) as client:
        return evaluate_target(dataset, client, k, name=target, progress=_labelled(show, target))


def _labelled(show: Show, label: str) -> Callable[[int, int], None]:
    return lambda done, total: show(label, done, total)
