"""``csplade plan``: what a collection needs, before it is built."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..core.errors import InputError
from .console import note, print_table

if TYPE_CHECKING:
    from ..bench.capacity import CapacityPlan

GIB = 2**30


def plan(
    documents: Annotated[int, typer.Option(min=1, max=10**10, help="Documents of the collection.")],
    mean_terms: Annotated[
        float, typer.Option(min=1, max=2048, help="Mean terms per document.")
    ] = 119.0,
    model: Annotated[
        str,
        typer.Option(
            help="embedded, a listed hub id, a directory with config.json, or none: vectors only."
        ),
    ] = "embedded",
    quantization: Annotated[
        Literal["none", "int8", "nf4", "fp4"],
        typer.Option(help="Precision of the model's weights."),
    ] = "none",
    gpu_memory: Annotated[
        float, typer.Option(min=0, max=1e6, help="GiB of one GPU; 0: no GPU.")
    ] = 0.0,
    memory: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=1e6, help="GiB of main memory of one machine; default: of this one."
        ),
    ] = None,
    rate: Annotated[float, typer.Option(min=0, max=1e9, help="Peak queries per second.")] = 0.0,
    replicas: Annotated[
        int, typer.Option(min=0, help="Replicas of each part; 0: as many as the rate needs.")
    ] = 0,
    query_terms: Annotated[int, typer.Option(min=1, max=2048, help="Mean terms per query.")] = 43,
    query_tokens: Annotated[int, typer.Option(min=1, help="Mean tokens per query.")] = 12,
    out: Annotated[
        Path | None, typer.Option(help="YAML file to write; default: print it below the table.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Plan bytes, shards, replicas and settings for a collection."""
    from ..bench.capacity import Question, make_plan
    from ..bench.capacity_yaml import write
    from ..core.files import write_aside
    from ..service.memory import available_memory

    free = int(memory * GIB) if memory is not None else available_memory()
    if free is None:
        raise InputError("--memory: this system does not report its memory; give --memory GIB")
    planned = make_plan(
        Question(
            documents=documents,
            mean_terms=mean_terms,
            model=model,
            quantization=quantization,
            gpu_memory=int(gpu_memory * GIB),
            memory=free,
            rate=rate,
            replicas=replicas,
            query_terms=query_terms,
            query_tokens=query_tokens,
        )
    )
    text = write(planned, shlex.join(["csplade", *sys.argv[1:]]))
    if out is not None:
        with write_aside(out, "w") as file:
            file.write(text)
        note(f"written: {out}")
    if as_json:
        typer.echo(json.dumps(asdict(planned), indent=2))
        return
    _print(planned)
    if out is None:
        typer.echo(f"\n{text}", nl=False)


def _print(planned: CapacityPlan) -> None:
    rows = [[name, f"{size:,}", f"{size / GIB:.3f}"] for name, size in planned.parts.items()]
    print_table(["part", "bytes", "GiB"], rows, left=["part"])
    device = "GPU" if planned.question.gpu_memory else "machine"
    shared = planned.together and "weights" in planned.parts
    typer.echo(
        f"\n{_count(planned.shards, 'shard')}, one per {device}, "
        f"{planned.shard_bytes / GIB:.2f} GiB each{', with the encoder' if shared else ''}; "
        f"{_count(planned.replicas, 'replica')} of each."
    )
    typer.echo(
        f"Expected batch: {_measured(planned.batch, '.1f', 'queries')}; "
        f"p50: {_measured(planned.p50, '.1f', 'ms')}; "
        f"highest rate of a replica: {_measured(planned.max_rate, ',.0f', 'queries/s')}."
    )
    for line in planned.notes:
        typer.echo(line)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _measured(value: float | None, form: str, unit: str) -> str:
    return "not measured yet" if value is None else f"{value:{form}} {unit}"
