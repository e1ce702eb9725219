"""Files as every floor needs them: JSON lines with line numbers in their errors, writes that are whole or absent."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import InputError


def read_jsonl(
    path: Path | str, *, on_bad: Callable[[InputError], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a JSON-lines file, ``.gz`` accepted; blank lines are passed over.

    Args:
        path: the file.
        on_bad: called with the error of a broken line, which is then skipped; without it the error is raised.

    Raises:
        InputError: no such file, or a line that is no JSON object, naming file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", errors="strict") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise ValueError(f"a JSON object is needed, found {type(value).__name__}")
            except ValueError as error:
                bad = InputError(f"{path}:{number}: broken JSON line: {error}")
                if on_bad is None:
                    raise bad from None
                on_bad(bad)
                continue
            yield number, value


def file_sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_directory(path: Path | str) -> None:
    """Make the renames inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def write_aside(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Write ``path`` whole or not at all: a neighbour ``.part`` file, fsync, rename, fsync of the directory."""
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    try:
        with open(aside, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
