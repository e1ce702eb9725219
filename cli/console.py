"""What the commands share on the terminal: progress bars on stderr, tables on stdout, models by
name.
"""

from __future__ import annotations

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

from ..core.errors import InputError

if TYPE_CHECKING:
    from ..model import Encoder

SHOWN_BAD_LINES = 10
SECONDS_BETWEEN_LINES = 10

Quantization = Annotated[
    Literal["auto", "none", "int8", "nf4", "fp4"], typer.Option(help="Of the encoder's weights.")
]


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Texts per second, of late while running, of the whole at the end."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self._unit}/s")


class _PlainProgress:
    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._began: dict[str, tuple[float, int]] = {}
        self._said = time.monotonic()

    def __call__(self, label: str, done: int, total: int) -> None:
        now = time.monotonic()
        began, first = self._began.setdefault(label, (now, done))
        if done < total and now - self._said < SECONDS_BETWEEN_LINES:
            return
        self._said = now
        speed = (done - first) / (now - began) if now > began else 0.0
        left = f"ETA {timedelta(seconds=round((total - done) / speed))}" if speed else "ETA unknown"
        note(f"{label} {done:,}/{total:,}, {speed:,.1f} {self._unit}/s, {left}")


@contextmanager
def progress_bars(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr with count, speed, elapsed time and ETA; yields ``show(label, done, total)``.

    The first call for a label sets where its speed is counted from. Where stderr is no terminal, a
    plain line comes every ten seconds and at the end.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainProgress(unit)
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
    """Print a table on stdout, boxed on a terminal, plain columns of full width when piped.

    Args:
        headers: column names.
        rows: cells in letters.
        left: the columns that are text; the others are set to the right.
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
    console = Console() if terminal else Console(width=10_000, color_system=None)
    console.print(table)


def note(message: str) -> None:
    """A line for the user on stderr."""
    print(message, file=sys.stderr)


class BadLines:
    """Reports the first bad lines on stderr; pass it as ``on_bad``."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, error: InputError) -> None:
        """Count a bad line, and show it if it is among the first."""
        self._count += 1
        if self._count <= SHOWN_BAD_LINES:
            note(f"skipped: {error}")
        elif self._count == SHOWN_BAD_LINES + 1:
            note("skipped: more bad lines, counted but not shown")


def load_encoder(model: str, quantization: str) -> Encoder:
    """Load a model; an index notes a directory by its absolute path, to be opened from anywhere."""
    from ..model import Encoder

    if model != "embedded" and Path(model).is_dir():
        model = str(Path(model).resolve())
    return Encoder.from_pretrained(model, quantization=quantization)
