"""Resume a job only with the settings, model and data that it was started with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import IncompatibleError, InputError
from .files import write_aside

SETTINGS_FILE = "settings.json"


def start_or_resume(path: Path, settings: Mapping[str, Any]) -> None:
    """Note the settings of a new job, or check that a job is resumed with the same.

    Args:
        path: JSON file in the job's own directory.
        settings: what the job's result depends on, as values that JSON can hold.

    Raises:
        IncompatibleError: the job was started with another value, or nothing tells with which.
    """
    if not path.is_file():
        write_settings(path, settings)
    require_same_settings(path.parent, read_settings(path), settings)


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Note the settings of a new job."""
    with write_aside(path) as file:
        json.dump(settings, file, indent=1)


def read_settings(path: Path) -> dict[str, Any]:
    """Return what :func:`write_settings` noted.

    Raises:
        IncompatibleError: there is no such file, or it was altered.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError
    except (OSError, ValueError):
        raise IncompatibleError(
            f"{path}: does not tell with which settings the job was started; start it elsewhere"
        ) from None
    return settings


def require_same_settings(place: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that an unfinished job is resumed with the settings that it was started with.

    Raises:
        IncompatibleError: a setting has another value; the first is told.
    """
    now = json.loads(json.dumps(now))
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            raise IncompatibleError(
                f"{place}: the unfinished job was started with {name} {before.get(name)!r:.80}, "
                f"now it is {now.get(name)!r:.80}; resume with the same or start elsewhere"
            )


def is_finished(out: Path, note: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether a job with these settings wrote ``out`` already.

    Args:
        out: file or directory that the job writes, whole or not at all.
        note: settings of the job that wrote it, see :func:`write_settings`.
        settings: of the job at hand.

    Raises:
        InputError: something else is there.
        IncompatibleError: a job with another setting wrote it; the first is told.
    """
    if not out.exists():
        return False
    if not note.is_file():
        raise InputError(
            f"{out}: is there already, and this job did not write it; delete it or write elsewhere"
        )
    before, now = read_settings(note), json.loads(json.dumps(settings))
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            raise IncompatibleError(
                f"{out}: was made with {name} {before.get(name)!r:.80}, now it is "
                f"{now.get(name)!r:.80}; delete it or write elsewhere"
            )
    return True


def open_work(work: Path, settings: Mapping[str, Any]) -> None:
    """Make or find the directory in which a job keeps what it resumes from.

    Raises:
        InputError: a directory of that name that no job made.
        IncompatibleError: a job with other settings made it.
    """
    note = work / SETTINGS_FILE
    if work.exists() and not note.is_file() and (not work.is_dir() or any(work.iterdir())):
        raise InputError(
            f"{work}: is there already, and no job made it; move it or write elsewhere"
        )
    work.mkdir(parents=True, exist_ok=True)
    start_or_resume(note, settings)
