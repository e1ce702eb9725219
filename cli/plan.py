"""``csplade plan``: what a collection needs, before it is built."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..core.errors import InputError
from .console import note, print_table

GIB = 2**30


def plan(
    documents: Annotated[int, typer.Option(min=1, max=10**10, help="Documents of the collection.")],
    mean_terms: Annotated[
        float, typer.Option(min=1, max=2048, help="Terms of a document, on average.")
    ] = 119.0,
    model: Annotated[
        str,
        typer.Option(
            help="embedded, a known hub id, a directory with config.json, or none: vectors only."
        ),
    ] = "embedded",
    quantization: Annotated[
        Literal["none", "int8", "nf4", "fp4"], typer.Option(help="Of the model.")
    ] = "none",
    gpu_memory: Annotated[float, typer.Option(min=0, help="GiB of one GPU; 0: on CPUs.")] = 0.0,
    memory: Annotated[
        float | None,
        typer.Option(min=0.1, help="GiB of main memory of one machine; default: of this one."),
    ] = None,
    rate: Annotated[float, typer.Option(min=0, help="Queries a second at the busiest.")] = 0.0,
    replicas: Annotated[
        int, typer.Option(min=0, help="Of everything; 0: as many as the rate needs.")
    ] = 0,
    query_terms: Annotated[
        int, typer.Option(min=1, max=2048, help="Terms of a query, on average.")
    ] = 43,
    query_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a query, on average.")] = 12,
    out: Annotated[
        Path | None, typer.Option(help="Write the YAML here instead of below the table.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell bytes, shards, replicas, expected batch and p50 of a collection, and give the settings
    for it.
    """
    from ..bench import capacity as planner
    from ..bench import capacity_yaml as plan_yaml
    from ..core.files import write_aside
    from ..service.memory import available_memory

    free = int(memory * GIB) if memory is not None else available_memory()
    if free is None:
        raise InputError("memory is not told by this system, name it: --memory GIB")
    question = planner.Question(
        documents,
        mean_terms,
        model,
        quantization,
        int(gpu_memory * GIB),
        free,
        rate,
        replicas,
        query_terms,
        query_tokens,
    )
    made = planner.make(question)
    text = plan_yaml.write(made, shlex.join(["csplade", *sys.argv[1:]]))
    if out is not None:
        with write_aside(out, "w") as file:
            file.write(text)
        note(f"written: {out}")
    if as_json:
        typer.echo(json.dumps(asdict(made), indent=2))
        return
    rows = [[name, f"{size:,}", f"{size / GIB:.3f}"] for name, size in made.parts.items()]
    print_table(["part", "bytes", "GiB"], rows, left=["part"])
    on = "GPU" if gpu_memory else "machine"
    typer.echo(
        f"\n{made.shards} {'shard' if made.shards == 1 else 'shards'}, one a {on}, "
        f"{made.shard_bytes / GIB:.2f} GiB each"
        f"{', encoder included' if made.together and question.model != planner.VECTORS_ONLY else ''}; "
        f"{made.replicas} {'replica' if made.replicas == 1 else 'replicas'} of each."
    )
    unknown = "not measured yet"
    typer.echo(
        f"Expected batch: {unknown if made.batch is None else f'{made.batch:.1f} queries'}; "
        f"p50: {unknown if made.p50 is None else f'{made.p50:.1f} ms'}; "
        "a replica does at most: "
        f"{unknown if made.most is None else f'{made.most:,.0f} queries/s'}."
    )
    for line in made.notes:
        typer.echo(line)
    if out is None:
        typer.echo(f"\n{text}", nl=False)
