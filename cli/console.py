"""What the commands share: progress on stderr, tables on stdout, common options."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..core.device import find_device
from ..core.errors import InputError

if TYPE_CHECKING:
    from ..model import Encoder

MAX_BAD_LINES_SHOWN = 10
SECONDS_BETWEEN_LINES = 10.0  # of progress without a terminal
PIPED_TABLE_COLUMNS = 10_000  # wide enough that no cell wraps

Quantization = Annotated[
    Literal["auto", "none", "int8", "nf4", "fp4"],
    typer.Option(help="Precision of the encoder's weights."),
]

Preset = Annotated[
    str | None,
    typer.Option(help="Family whose conventions a checkpoint without csplade.json follows."),
]
Words = Annotated[
    str | None,
    typer.Option("--tokenizer", help="Directory or hub id, for a checkpoint without tokenizer."),
]
Base = Annotated[
    str | None,
    typer.Option(help="Directory or hub id of an adapter's base, if its files name another."),
]
QueryEncoder = Annotated[
    Literal["auto", "lexical", "model", "both"],
    typer.Option(help="What makes queries, where the encoder holds both; auto: as it says."),
]


def above_zero(value: float | None) -> float | None:
    """Accept a finite number above 0; a callback of options."""
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} is out of range; must be finite and > 0")
    return value


def finite(value: float | None) -> float | None:
    """Accept a finite number; a callback of options."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value:g} is out of range; must be finite")
    return value


def not_blank(value: str | None) -> str | None:
    """Accept a text with at least one word; a callback of options."""
    if value is not None and not value.strip():
        raise typer.BadParameter("it is blank; must have at least one word")
    return value


def filter_json(text: str) -> object:
    """Return the value of ``--filter``; raises BadParameter if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint="--filter") from None


def available_device(value: str) -> str:
    """Return the name of a device of this machine; a callback of options."""
    return find_device(value, "--device")


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Show the recent rate while the job runs, and the mean rate at its end."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self._unit}/s")


class _ProgressLines:
    """Progress without a terminal: a line every ten seconds, and one at the end of each job."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._began: dict[str, tuple[float, int]] = {}
        self._last: tuple[str, int, int] | None = None
        self._last_line = time.monotonic()

    def __call__(self, label: str, done: int, total: int) -> None:
        if (label, done, total) == self._last:
            return
        self._last = label, done, total
        now = time.monotonic()
        began, first = self._began.setdefault(label, (now, done))
        seconds = now - began
        speed = (done - first) / seconds if seconds else 0.0
        rate = f", {speed:,.1f} {self._unit}/s" if speed else ""
        if done >= total:
            note(f"{label} {done:,}/{total:,}{rate}, done in {_clock(seconds)}")
            del self._began[label]  # the same label may count another job
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = f", {_clock((total - done) / speed)} left" if speed else ""
            note(f"{label} {done:,}/{total:,}{rate}{left}")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def progress_bars(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show progress on stderr; yield ``show(label, done, total)``.

    On a terminal each label has a bar with count, speed, elapsed time and time left. Elsewhere
    each label prints a line every ten seconds and one at its end. The first call for a label sets
    where its speed is counted from.

    Args:
        unit: what is counted, for the speed.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _ProgressLines(unit)
        return
    columns = [
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(unit),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def show(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = progress.add_task(label, completed=done, total=total)
            progress.update(tasks[label], completed=done, total=total)

        yield show


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str] = ()
) -> None:
    """Print a table on stdout: ruled on a terminal, plain columns of full width when piped.

    Args:
        headers: column names.
        rows: cells as text.
        left: the columns to align left; the others align right.
    """
    terminal = sys.stdout.isatty()
    table = Table(box=SIMPLE_HEAD if terminal else None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in headers:
        text = header in left
        table.add_column(
            header, justify="left" if text else "right", overflow="fold", no_wrap=not text
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console() if terminal else Console(width=PIPED_TABLE_COLUMNS, color_system=None)
    console.print(table)


def note(message: str) -> None:
    """Print a line on stderr."""
    print(message, file=sys.stderr)


def note_counts(counts: dict[str, int]) -> None:
    """Print a line on stderr for each count above 0."""
    for what, count in counts.items():
        if count:
            note(f"{count:,} {what}")


class BadLines:
    """Reports the first skipped lines on stderr; pass it as ``on_bad``."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, error: InputError) -> None:
        """Count a skipped line, and show it if it is among the first."""
        self._count += 1
        if self._count <= MAX_BAD_LINES_SHOWN:
            note(f"skipped: {error}")
        elif self._count == MAX_BAD_LINES_SHOWN + 1:
            note("skipped: further bad lines are counted but not shown")


def load_encoder(
    model: str,
    quantization: str,
    *,
    preset: str | None = None,
    tokenizer: str | None = None,
    base: str | None = None,
) -> Encoder:
    """Load a model; a directory is named by its absolute path, so that an index finds it again."""
    from ..model import Encoder

    if model != "embedded" and Path(model).is_dir():
        model = str(Path(model).resolve())
    return Encoder.from_pretrained(
        model, quantization=quantization, preset=preset, tokenizer=tokenizer, base=base
    )
