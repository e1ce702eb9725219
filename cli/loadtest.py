"""``csplade loadtest``: k6 against a running service, and what the service adds to its engine."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .. import __version__
from ..core.errors import InputError, UnavailableError
from ..core.files import write_aside
from .console import note, print_table

if TYPE_CHECKING:
    from ..loadtest.compare import Line, Mode
    from ..loadtest.profiles import Plan
    from ..loadtest.report import Circumstances
    from ..loadtest.target import Target

EXAMPLES = Path(__file__).parent.parent / "examples" / "queries.jsonl"
SECONDS = {"smoke": 5, "step": 20, "soak": 600, "overload": 60}
RATE = 10.0
MOST = 400  # connections
BEYOND_QUEUE = 200  # connections that are left when the queue is full
SERVE = [sys.executable, "-c", "from csplade.cli.main import main; main()", "serve"]


def loadtest(
    target: Annotated[str | None, typer.Option(help="HOST:PORT of the service.")] = None,
    profile: Annotated[
        Literal["smoke", "step", "soak", "overload"],
        typer.Option(
            help="smoke: does it work; step: at what rate is the knee; soak: does it last; "
            "overload: four times "
            "--rate, the rate of the knee: what is refused, how quickly, how soon all is well "
            "again."
        ),
    ] = "smoke",
    mix: Annotated[
        str, typer.Option(help="Weights of the kinds of requests.")
    ] = "text=1,vector=0,encode=0",
    queries: Annotated[
        Path | None,
        typer.Option(help="JSON lines with text or contents, or vector; default: the examples'."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, max=100_000, help="Requests a second; of step: the first rate."),
    ] = None,
    seconds: Annotated[
        int | None,
        typer.Option(min=2, max=86_400, help="Of each rate; default 5, 20, 600 and 60 by profile."),
    ] = None,
    p99: Annotated[
        float, typer.Option(min=0.01, help="Milliseconds that 99 of 100 answers must keep.")
    ] = 250.0,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="Hits of a search.")] = 10,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=600, help="Seconds: every request's deadline.")
    ] = 10.0,
    connections: Annotated[int, typer.Option(min=1, max=2000, help="Opened beforehand.")] = 20,
    most_connections: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help="At most; each carries one request at a time. Default 400; of overload 200 more "
            "than the "
            "service's queue holds.",
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="URL of /metrics of the service, to read meanwhile; repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the results; default loadtest-PROFILE.", file_okay=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order of the requests.")] = 7,
    key_file: Annotated[
        Path | None,
        typer.Option(help="File whose first line is the API key.", dir_okay=False, exists=True),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(help="Speak TLS, trust this PEM file.", dir_okay=False, exists=True),
    ] = None,
    application: Annotated[
        str, typer.Option(help="Application, where several run on one Ray cluster.")
    ] = "",
    compare_engine: Annotated[
        Path | None,
        typer.Option(
            help="Measure what the service adds instead: the engine alone on this index, a bare "
            "echo server and the "
            "service at one rate, in turns. Without --target it serves the index itself, as one "
            "process and on Ray.",
            file_okay=False,
            exists=True,
        ),
    ] = None,
    mode: Annotated[
        Literal["single", "ray"] | None,
        typer.Option(
            help="With --compare-engine: how --target runs, or the only mode to serve in."
        ),
    ] = None,
) -> None:
    """Load a service at given rates, whatever comes back, and report latency, refusals and where
    the time went.
    """
    from ..loadtest import k6, plot
    from ..loadtest.target import Target

    k6.find()
    plot.check()
    if most_connections is not None and most_connections < connections:
        raise InputError(
            f"--most-connections is {most_connections}, must be at least --connections "
            f"{connections}"
        )
    source = queries or EXAMPLES
    directory = out or Path(f"loadtest-{'compare' if compare_engine else profile}")
    directory.mkdir(parents=True, exist_ok=True)
    key = "" if key_file is None else key_file.read_text().partition("\n")[0].strip()

    def plan_for(at: Target, mix: str, first_rate: float, duration: int) -> tuple[Plan, str]:
        from ..loadtest import queries as prepared
        from ..loadtest.profiles import Plan

        path = directory / "requests.json"
        told = prepared.prepare(
            prepared.read_queries(source), prepared.read_mix(mix), at, k=k, seed=seed, path=path
        )
        most = most_connections or max(connections, MOST)
        if most_connections is None and profile == "overload":
            most = max(connections, at.info.limits.queue + BEYOND_QUEUE)
        load = k6.Load(at, path, timeout, connections, most)
        return Plan(load, first_rate, duration, p99, tuple(metrics or ())), told

    if compare_engine is not None:
        _compare(
            compare_engine,
            None if target is None else Target(target, key, ca, application),
            mode,
            rate,
            directory,
            lambda at: plan_for(at, "vector=1", 1.0, seconds or 10),
        )
        return
    if target is None:
        raise typer.BadParameter("name the service", param_hint="--target")
    if profile in ("soak", "overload") and rate is None:
        raise typer.BadParameter(
            f"{profile} needs the rate that the service can do; --profile step finds it",
            param_hint="--rate",
        )
    at = Target(target, key, ca, application)
    plan, told = plan_for(at, mix, rate or RATE, seconds or SECONDS[profile])
    from ..loadtest import profiles, report

    result = profiles.run(profile, plan, note)
    about = _circumstances(at, told)
    written = report.write(directory, result, about, plot.png(result))
    for title, (headings, rows) in report.tables(result):
        typer.echo(f"\n{title}")
        print_table(headings, rows, left=["", *headings[-1:]] if profile != "overload" else [""])
    for line in (
        *report.summary(result),
        *report.about_lines(about),
        f"Repeat it: {about.command}",
    ):
        typer.echo(line)
    note(f"written: {', '.join(map(str, written))}")
    if result.failures:
        raise typer.Exit(1)


def _circumstances(target: Target, queries: str) -> Circumstances:
    from ..loadtest import k6
    from ..loadtest.report import Circumstances

    info = target.info
    served = (
        f"csplade {info.version} at {target.address}, "
        f"{info.model.name if info.HasField('model') else 'no model'}, {info.index.documents:,} "
        "documents, "
        f"{info.index.postings:,} postings, {len(info.index.shards)} shards"
    )
    k6_version = subprocess.run(
        [k6.find(), "version"], capture_output=True, text=True, check=True
    ).stdout
    versions = {
        "csplade": __version__,
        "k6": k6_version.split()[1],
        "python": platform.python_version(),
    }
    return Circumstances(
        command=shlex.join(["csplade", *sys.argv[1:]]),
        date=datetime.now(UTC).isoformat(timespec="minutes"),
        hardware=_hardware(),
        served=served,
        queries=queries,
        versions=versions,
    )


def _hardware() -> str:
    """This machine, and how busy it is besides."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return f"{len(os.sched_getaffinity(0))} cores of {name}, load average {os.getloadavg()[0]:.1f} at the end"


def _compare(
    index: Path,
    target: Target | None,
    mode: Mode | None,
    rate: float | None,
    directory: Path,
    plan_for: Callable[[Target], tuple[Plan, str]],
) -> None:
    """The comparison for one target, or for those that are started here; exits 1 when a bound is
    missed.
    """
    from ..bench.engine import EngineAlone
    from ..loadtest.compare import HEADINGS, RATES, compare
    from ..loadtest.target import Target

    lines: list[Line] = []
    with EngineAlone(index) as engine:

        def measure(at: Target, how: Mode) -> Plan | None:
            """Gives the plan if a bound is missed."""
            plan, told = plan_for(at)
            note(f"{how} at {at.address}; {told}")
            if how == "ray" and len(at.info.index.shards) == 1:
                note("the index has one shard: through Ray that is one hop, the bound is for two")
            found = compare(how, plan, engine.times, rate=rate, tell=note)
            lines.extend(found)
            return plan if any(line.kept is False for line in found) else None

        if target is not None:
            measure(target, mode or "single")
        else:
            modes: tuple[Mode, ...] = ("single", "ray") if mode is None else (mode,)
            for how in modes:
                with _served(index, how, directory) as (address, process):
                    if missed := measure(Target(address), how):
                        _profile(
                            process.pid,
                            missed,
                            rate or RATES[how],
                            directory / f"profile-{how}.svg",
                        )
    print_table(HEADINGS, [line.row() for line in lines], left=["what", "allowed", ""])
    for line in lines:
        if line.stages:
            told = ", ".join(
                f"{stage} {milliseconds:.3f}" for stage, milliseconds in line.stages.items()
            )
            typer.echo(f"{line.name} at {line.rate:g}/s, its own times, p50 in ms: {told}")
    command = shlex.join(["csplade", *sys.argv[1:]])
    about = {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "hardware": _hardware(),
    }
    path = directory / "compare.json"
    with write_aside(path) as file:
        json.dump({**about, "lines": [vars(line) for line in lines]}, file, indent=1)
    note(f"{about['hardware']}; {about['date']}; repeat it: {command}; written: {path}")
    if any(line.kept is False for line in lines):
        raise typer.Exit(1)


@contextmanager
def _served(
    index: Path, mode: str, directory: Path
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """``csplade serve`` of an index in a process of its own, with its encoder: it makes vectors of
    the queries.
    """
    log = directory / f"serve-{mode}.log"
    command = [
        *SERVE,
        str(index),
        "--port",
        "0",
        "--metrics-port",
        "0",
        *(["--ray"] if mode == "ray" else []),
    ]
    note(f"starting: csplade {shlex.join(command[3:])}, log in {log}")
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        try:
            started = time.monotonic()
            address = process.stdout.readline().decode().strip()
            if not address:
                raise UnavailableError(
                    f"csplade serve ended with status {process.wait()}; see {log}"
                )
            note(f"ready after {time.monotonic() - started:.0f} s")
            yield address, process
        finally:
            process.send_signal(signal.SIGTERM)


def _profile(process: int, plan: Plan, rate: float, path: Path) -> None:
    """Load the service once more while py-spy looks at it and at its children: why a bound is
    missed.
    """
    from ..loadtest import profiles

    program = shutil.which(
        "py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if program is None:
        note(
            "no profile of what was missed: py-spy is not installed (it comes with "
            "csplade[loadtest])"
        )
        return
    command = [
        program,
        "record",
        "--pid",
        str(process),
        "--subprocesses",
        "--nonblocking",
        "--threads",
    ]
    command += ["--duration", str(plan.seconds + profiles.WARM), "--output", str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as recorder:
        profiles.measure(plan, rate)
        said = recorder.communicate()[1].strip().splitlines()
    if path.is_file():
        note(f"why a bound is missed: {path}, a flame graph at {rate:g}/s")
    else:
        note(f"no profile of what was missed: {said[-1] if said else 'py-spy said nothing'}")
