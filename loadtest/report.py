"""Report a load test: tables, Markdown, one self-contained HTML page, JSON."""

from __future__ import annotations

import base64
import html
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from .. import __version__
from ..core.files import write_aside
from ..core.machine import hardware
from . import k6
from .k6 import STAGES, Outcome, Phase
from .knee import Step
from .profiles import Overload, Result
from .target import Target

Table = tuple[list[str], list[list[str]]]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd;
  white-space: nowrap }
th:first-child, td:first-child { text-align: left }
img { max-width: 100% }
.knee { background: #e8f3e8 }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto }
"""


@dataclass(frozen=True)
class Circumstances:
    """What a reader needs to judge and repeat a measurement.

    Attributes:
        command: command that repeats the test.
        date: ISO 8601.
        hardware: machine of the load generator, and of the server if it is the same.
        served: server, index and model in one line.
        queries: requests in one line.
        versions: versions of the programs.
    """

    command: str
    date: str
    hardware: str
    served: str
    queries: str
    versions: dict[str, str]

    @classmethod
    def of(cls, target: Target, queries: str) -> Circumstances:
        """Describe this machine, the command line and the target."""
        info = target.info
        model = info.model.name if info.HasField("model") else "no model"
        k6_version = subprocess.run(
            [k6.find(), "version"], capture_output=True, text=True, check=True
        ).stdout
        return cls(
            command=command(),
            date=now(),
            hardware=busy_hardware(),
            served=(
                f"csplade {info.version} at {target.address}, {model}, "
                f"{info.index.documents:,} documents, {info.index.postings:,} postings, "
                f"{len(info.index.shards)} shards"
            ),
            queries=queries,
            versions={
                "csplade": __version__,
                "k6": k6_version.split()[1],
                "python": platform.python_version(),
            },
        )


def command() -> str:
    """Return the command line of this process."""
    return shlex.join(["csplade", *sys.argv[1:]])


def now() -> str:
    """Return the time in UTC, ISO 8601, to the minute."""
    return datetime.now(UTC).isoformat(timespec="minutes")


def busy_hardware() -> str:
    """Describe this machine and its load average."""
    return f"{hardware()}, load average {os.getloadavg()[0]:.1f} at the end"


def tables(result: Result) -> list[tuple[str, Table]]:
    """Return the tables of a result, each with its title."""
    if result.overload is not None:
        return [
            ("Phases", _phases(result.overload)),
            ("After the overload", _seconds(result.overload)),
        ]
    found = [
        ("Rates", _rates(result)),
        ("Stages of the server, p50 in ms, from its answers", _stages(result)),
    ]
    if any(step.scraped for step in result.steps):
        found.append(("Stages and counts from the server's metrics, means", _scraped(result)))
    return found


def summary(result: Result) -> list[str]:
    """Return the result in sentences."""
    lines = []
    if result.profile == "step":
        top = max(step.answered for step in result.steps)
        found = "none" if result.knee is None else f"{result.knee:.4g}/s"
        lines.append(
            f"Knee: {found} (all answered, p99 within {result.p99:g} ms). Most answered: "
            f"{top:.4g}/s."
        )
    if (overload := result.overload) is not None:
        during = overload.during.outcome
        recovery = "not seen" if overload.recovery is None else f"second {overload.recovery}"
        lines.append(
            f"{overload.factor:g} x {overload.rate:g}/s for {overload.seconds:g} s: "
            f"{during.ok.count} answered, p99 "
            f"{during.ok.p99:.1f} ms; {during.rejected.count} rejected, p99 "
            f"{during.rejected.p99:.1f} ms; "
            f"recovered: {recovery}."
        )
    if result.memory_growth is not None:
        lines.append(
            f"Resident memory of the server at the end: {result.memory_growth:.3f} times that in "
            "the second quarter of the test."
        )
    if result.profile != "step" and not result.failures:
        lines.append("Passed: every bound is kept.")
    return lines + [f"FAILED: {failure}." for failure in result.failures]


def _rates(result: Result) -> Table:
    headings = [
        "offered/s",
        "answered/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "max ms",
        "rejected",
        "failed",
        "not sent",
        "",
    ]
    rows = []
    for step in result.steps:
        outcome, ok = step.phase.outcome, step.phase.outcome.ok
        times = [f"{value:.2f}" for value in (ok.p50, ok.p95, ok.p99, ok.max)]
        failed = outcome.late + outcome.unavailable + outcome.other + step.phase.unreached
        counts = [str(one) for one in (outcome.rejected.count, failed, step.phase.not_sent)]
        rows.append(
            [f"{step.rate:.4g}", f"{step.answered:.4g}", *times, *counts, _verdict(result, step)]
        )
    return headings, rows


def _verdict(result: Result, step: Step) -> str:
    """Only a step test asks whether a rate is too high; the others have failures of their own."""
    if result.profile != "step":
        return ""
    if step.rate == result.knee:
        return "knee"
    return "kept" if step.kept(result.p99) else "too high"


def _stages(result: Result) -> Table:
    present = [
        stage for stage in STAGES if any(stage in step.phase.server for step in result.steps)
    ]
    rows = []
    for step in result.steps:
        server = step.phase.server
        times = [f"{server[stage].p50:.3f}" if stage in server else "" for stage in present]
        rows.append([f"{step.rate:.4g}", *times, f"{step.phase.outcome.ok.p50:.3f}"])
    return ["offered/s", *present, "seen by the client"], rows


def _scraped(result: Result) -> Table:
    present = list(dict.fromkeys(name for step in result.steps for name in step.scraped))
    rows = [
        [
            f"{step.rate:.4g}",
            *(f"{step.scraped[name]:.4g}" if name in step.scraped else "" for name in present),
        ]
        for step in result.steps
    ]
    return ["offered/s", *present], rows


def _phases(overload: Overload) -> Table:
    headings = [
        "", "sent", "answered", "p50 ms", "p99 ms", "rejected", "p50 ms", "p99 ms",
        "late", "unavailable", "other", "not sent",
    ]  # fmt: skip
    half = overload.rate / 2
    named: list[tuple[str, Phase]] = [
        (f"before, {half:g}/s", overload.before),
        (f"overload, {overload.rate * overload.factor:g}/s", overload.during),
        (f"after, {half:g}/s", overload.after),
    ]
    return headings, [
        [name, *_outcome(phase.outcome), str(phase.not_sent)] for name, phase in named
    ]


def _outcome(one: Outcome) -> list[str]:
    return [
        str(one.sent), str(one.ok.count), f"{one.ok.p50:.2f}", f"{one.ok.p99:.2f}",
        str(one.rejected.count), f"{one.rejected.p50:.2f}", f"{one.rejected.p99:.2f}",
        str(one.late), str(one.unavailable), str(one.other),
    ]  # fmt: skip


def _seconds(overload: Overload) -> Table:
    rows = [
        [
            str(second),
            str(one.sent),
            str(one.ok.count),
            f"{one.ok.p50:.2f}",
            f"{one.ok.p95:.2f}",
            str(one.rejected.count),
        ]
        for second, one in enumerate(overload.by_second)
    ]
    return ["second", "sent", "answered", "p50 ms", "p95 ms", "rejected"], rows


def markdown(result: Result, about: Circumstances, plot: str | None = None) -> str:
    """Return the result as a section of docs/loadtest.md."""
    lines = [f"`{about.command}`", "", *about_lines(about), "", *summary(result), ""]
    for title, (headings, rows) in tables(result):
        lines += [
            f"{title}:",
            "",
            _row(headings),
            _row(["---"] * len(headings)),
            *map(_row, rows),
            "",
        ]
    if plot:
        lines += [f"![{result.profile}]({plot})", ""]
    return "\n".join(lines)


def about_lines(about: Circumstances) -> list[str]:
    """Return the circumstances in sentences."""
    versions = ", ".join(f"{name} {version}" for name, version in about.versions.items())
    return [f"{about.served}. {about.queries}. {about.hardware}; {versions}; {about.date}."]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def page(result: Result, about: Circumstances, png: bytes) -> str:
    """Return the result as one HTML file that loads nothing else."""
    parts = [f"<h1>csplade load test: {result.profile}</h1>"]
    parts += [f"<p>{html.escape(line)}</p>" for line in (*summary(result), *about_lines(about))]
    picture = base64.b64encode(png).decode()
    parts.append(f'<img alt="{result.profile}" src="data:image/png;base64,{picture}">')
    for title, (headings, rows) in tables(result):
        parts.append(f"<h2>{html.escape(title)}</h2><table><tr>{_cells('th', headings)}</tr>")
        parts += [
            f"<tr{' class=knee' if row[-1] == 'knee' else ''}>{_cells('td', row)}</tr>"
            for row in rows
        ]
        parts.append("</table>")
    parts.append(f"<h2>Repeat</h2><pre>{html.escape(about.command)}</pre>")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>csplade load test: '
        f"{result.profile}</title>"
        f"<style>{STYLE}</style>{''.join(parts)}</html>\n"
    )


def _cells(tag: str, cells: Sequence[str]) -> str:
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)


def write(directory: Path, result: Result, about: Circumstances, png: bytes) -> list[Path]:
    """Write result.json, report.md, report.html and plot.png; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    content: dict[str, bytes] = {
        "result.json": json.dumps({"about": asdict(about), **asdict(result)}, indent=1).encode(),
        "report.md": markdown(result, about, "plot.png").encode(),
        "report.html": page(result, about, png).encode(),
        "plot.png": png,
    }
    for name, value in content.items():
        with write_aside(directory / name, "wb") as file:
            file.write(value)
    return [directory / name for name in content]
