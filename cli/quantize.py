"""``csplade quantize-report``: quality, time and memory of each precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .console import note, progress_bars


def quantize_report(
    dataset: Annotated[
        Path, typer.Option(help="BEIR folder: corpus.jsonl, queries.jsonl, qrels/.")
    ],
    model: Annotated[str, typer.Option(help="`embedded`, a directory or a hub id.")] = "embedded",
    split: Annotated[str, typer.Option(help="Which judgments, qrels/SPLIT.tsv.")] = "test",
    documents: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Size of the pool, judged documents and a sample of the others; default: all.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch on the CPU.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder of finished rows, deleted at the end; default: quantize-report.work."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="JSON file to write, with all figures.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot to draw, .svg or .png.")] = None,
) -> None:
    """Measure each precision of encoder and impacts on a collection.

    A run that was interrupted resumes when it is started again.
    """
    from ..core.beir import load_dataset
    from ..core.files import require_new, write_aside
    from ..evaluation import quantize_report as report
    from ..evaluation import quantize_show as show

    for path in (json_file, plot):
        if path is not None:
            require_new(path)
    if plot is not None:
        show.require_plotting(plot)
    folder = work or Path("quantize-report.work")
    with progress_bars("texts") as progress:
        found = report.run(
            model,
            load_dataset(dataset, split),
            folder,
            device=device,
            documents=documents,
            threads=threads,
            seed=seed,
            progress=progress,
        )
    if json_file is not None:
        with write_aside(json_file) as file:
            json.dump(found.to_json(), file, indent=1)
        note(f"{json_file}: figures")
    if plot is not None:
        show.plot(found, plot)
        note(f"{plot}: plot")
    report.forget(folder)
    typer.echo(show.markdown(found))
