"""``csplade loadtest``: load a running service with k6, or compare it with its engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..core.errors import InputError
from ..core.files import write_aside
from .console import note, print_table

if TYPE_CHECKING:
    from ..loadtest.bounds import Mode
    from ..loadtest.compare import Line
    from ..loadtest.profiles import LoadPlan
    from ..loadtest.target import Target

EXAMPLES = Path(__file__).parent.parent / "examples" / "queries.jsonl"


def loadtest(
    target: Annotated[str | None, typer.Option(help="HOST:PORT of the service.")] = None,
    profile: Annotated[
        Literal["smoke", "step", "soak", "overload"],
        typer.Option(
            help="smoke: does it answer; step: the highest rate it keeps, the knee; soak: does "
            "it last; overload: what is rejected, and how soon it recovers, at four times --rate."
        ),
    ] = "smoke",
    mix: Annotated[
        str, typer.Option(help="Weights of the kinds of requests.")
    ] = "text=1,vector=0,encode=0",
    queries: Annotated[
        Path | None,
        typer.Option(help="JSON lines with text or contents, or vector; default: the examples."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=100_000,
            help="Requests per second: the first one of step; the knee, for overload.",
        ),
    ] = None,
    seconds: Annotated[
        int | None,
        typer.Option(min=2, max=86_400, help="Of each rate. Default: 5, 20, 600, 60 by profile."),
    ] = None,
    p99: Annotated[
        float, typer.Option(min=0.01, help="Milliseconds within which 99 of 100 answers must come.")
    ] = 250.0,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="Hits per search.")] = 10,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=600, help="Deadline of every request in seconds.")
    ] = 10.0,
    connections: Annotated[
        int, typer.Option(min=1, max=2000, help="Connections opened beforehand.")
    ] = 20,
    most_connections: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help="Connections at most; each carries one request at a time. Default: 400; for "
            "overload, 200 more than the queue of the service.",
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="URL of /metrics of the service, to read meanwhile; repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the results; default: loadtest-PROFILE.", file_okay=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order of the requests.")] = 7,
    key_file: Annotated[
        Path | None,
        typer.Option(help="File whose first line is the API key.", dir_okay=False, exists=True),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(help="Use TLS and trust this PEM file.", dir_okay=False, exists=True),
    ] = None,
    application: Annotated[
        str, typer.Option(help="Application, if several run on one Ray cluster.")
    ] = "",
    compare_engine: Annotated[
        Path | None,
        typer.Option(
            help="Measure what the service adds instead: the engine alone on this index, a bare "
            "echo server, and the service, at one rate in turns. Without --target, the index is "
            "served here, as one process and on Ray.",
            file_okay=False,
            exists=True,
        ),
    ] = None,
    mode: Annotated[
        Literal["single", "ray"] | None,
        typer.Option(help="With --compare-engine: how --target runs, or the only mode to serve."),
    ] = None,
) -> None:
    """Load a service at fixed rates and report latency, rejections and where time is spent."""
    from ..loadtest import bounds, k6, plot, profiles, report
    from ..loadtest.profiles import LoadPlan
    from ..loadtest.queries import prepare, read_mix, read_queries
    from ..loadtest.target import Target

    k6.find()
    plot.check()
    if most_connections is not None and most_connections < connections:
        raise InputError(
            f"--most-connections: {most_connections} is too small; must be at least --connections "
            f"{connections}"
        )
    key = "" if key_file is None else key_file.read_text().partition("\n")[0].strip()
    at = None if target is None else Target(target, key, ca, application)
    directory = out or Path(f"loadtest-{'compare' if compare_engine else profile}")
    directory.mkdir(parents=True, exist_ok=True)

    def plan_for(at: Target, mix: str, rate: float, seconds: int) -> tuple[LoadPlan, str]:
        """Write the requests; return the plan and a description of the requests."""
        path = directory / "requests.json"
        described = prepare(
            read_queries(queries or EXAMPLES), read_mix(mix), at, k=k, seed=seed, path=path
        )
        most = most_connections or max(connections, bounds.DEFAULT_CONNECTIONS)
        if most_connections is None and profile == "overload":
            most = max(connections, at.info.limits.queue + bounds.CONNECTIONS_BEYOND_QUEUE)
        load = k6.Load(at, path, timeout, connections, most)
        return LoadPlan(load, rate, seconds, p99, tuple(metrics or ())), described

    if compare_engine is not None:
        duration = seconds or bounds.DEFAULT_COMPARE_SECONDS
        lines = _compare(
            compare_engine,
            at,
            mode,
            rate,
            directory,
            lambda at: plan_for(at, "vector=1", 1.0, duration),
        )
        _print_comparison(lines, directory / "compare.json")
        return
    if at is None:
        raise typer.BadParameter("name the service", param_hint="--target")
    if profile in ("soak", "overload") and rate is None:
        raise typer.BadParameter(
            f"{profile} needs the rate that the service can answer; --profile step finds it",
            param_hint="--rate",
        )
    plan, described = plan_for(
        at, mix, rate or bounds.DEFAULT_RATE, seconds or bounds.DEFAULT_SECONDS[profile]
    )
    result = profiles.run(profile, plan, note)
    about = report.Circumstances.of(at, described)
    written = report.write(directory, result, about, plot.png(result))
    for title, (headings, rows) in report.tables(result):
        typer.echo(f"\n{title}")
        print_table(headings, rows, left=["", *headings[-1:]] if profile != "overload" else [""])
    for line in (*report.summary(result), *report.about_lines(about), f"Repeat: {about.command}"):
        typer.echo(line)
    note(f"written: {', '.join(map(str, written))}")
    if result.failures:
        raise typer.Exit(1)


def _compare(
    index: Path,
    target: Target | None,
    mode: Mode | None,
    rate: float | None,
    directory: Path,
    plan_for: Callable[[Target], tuple[LoadPlan, str]],
) -> list[Line]:
    """Compare the engine with one target, or with services that are started here."""
    from ..bench.engine import EngineAlone
    from ..loadtest import flame_graph
    from ..loadtest.bounds import COMPARE_RATES
    from ..loadtest.compare import compare
    from ..loadtest.serve import serving
    from ..loadtest.target import Target

    lines: list[Line] = []
    with EngineAlone(index) as engine:

        def measure(at: Target, how: Mode) -> tuple[LoadPlan, bool]:
            """Return the plan, and whether every bound is kept."""
            plan, described = plan_for(at)
            note(f"{how} at {at.address}; {described}")
            if how == "ray" and len(at.info.index.shards) == 1:
                note("the index has one shard: Ray needs one hop, the bound allows two")
            found = compare(how, plan, engine.times, rate=rate, tell=note)
            lines.extend(found)
            return plan, not any(line.kept is False for line in found)

        if target is not None:
            measure(target, mode or "single")
            return lines
        modes: tuple[Mode, ...] = ("single", "ray") if mode is None else (mode,)
        for how in modes:
            with serving(index, how, directory, note) as (address, process):
                plan, kept = measure(Target(address), how)
                if not kept:
                    path = directory / f"profile-{how}.svg"
                    note(flame_graph.record(process, plan, rate or COMPARE_RATES[how], path))
    return lines


def _print_comparison(lines: list[Line], path: Path) -> None:
    """Print the comparison and write it as JSON; exit with 1 if a bound is missed."""
    from ..loadtest import report
    from ..loadtest.compare import HEADINGS

    print_table(HEADINGS, [line.row() for line in lines], left=["what", "allowed", ""])
    for line in lines:
        if line.stages:
            stages = ", ".join(f"{stage} {spent:.3f}" for stage, spent in line.stages.items())
            typer.echo(f"{line.name} at {line.rate:g}/s, its own times, p50 in ms: {stages}")
    about = {
        "command": report.command(),
        "date": report.now(),
        "hardware": report.busy_hardware(),
    }
    with write_aside(path) as file:
        json.dump({**about, "lines": [vars(line) for line in lines]}, file, indent=1)
    note(f"{about['hardware']}; {about['date']}; repeat: {about['command']}; written: {path}")
    if any(line.kept is False for line in lines):
        raise typer.Exit(1)
