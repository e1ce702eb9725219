"""``csplade encode``: texts to sparse vectors, one JSON line each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .console import (
    BadLines,
    Base,
    Preset,
    Quantization,
    Words,
    load_encoder,
    note,
    progress_bars,
)


def encode(
    source: Annotated[
        Path,
        typer.Option("--input", help="JSON lines with _id, text and perhaps title; .gz accepted."),
    ],
    output: Annotated[
        Path, typer.Option(help="File to write: JSON lines with id, contents, vector.")
    ],
    kind: Annotated[
        Literal["document", "query"], typer.Option(help="On which side the texts stand.")
    ] = "document",
    model: Annotated[str, typer.Option(help="embedded, a directory or a hub id.")] = "embedded",
    quantization: Quantization = "auto",
    preset: Preset = None,
    tokenizer: Words = None,
    base: Base = None,
    terms: Annotated[
        Literal["tokens", "ids"], typer.Option(help="Terms as token strings or as integer ids.")
    ] = "tokens",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip bad lines, count and report them.")
    ] = False,
) -> None:
    """Turn texts into sparse vectors, one JSON line each. A run that was killed resumes."""
    if output.suffix == ".gz":
        raise typer.BadParameter(
            "cannot be .gz, it is written line by line; compress it after", param_hint="--output"
        )
    from ..ingest.encode import encode_file

    with progress_bars("texts") as progress:
        report = encode_file(
            source,
            output,
            lambda: load_encoder(
                model, quantization, preset=preset, tokenizer=tokenizer, base=base
            ),
            kind=kind,
            keys=terms,
            on_bad=BadLines() if skip_bad else None,
            progress=lambda done, total: progress("texts", done, total),
        )
    typer.echo(f"{output}: {report.texts:,} vectors")
    if report.finished:
        note(f"{output}: made before with the same texts, model and settings; nothing to do")
        return
    counts = {
        "vectors were there from before": report.resumed,
        "bad lines were skipped": report.skipped,
        "tokens were cut by the token cap": report.dropped_tokens,
        "terms were cut by the term cap": report.dropped_terms,
        "vectors are empty although their texts are not": report.empty,
    }
    for what, count in counts.items():
        if count:
            note(f"{count:,} {what}")
