"""Files as every floor needs them: JSON lines with line numbers in their errors, writes that are
whole or absent.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import InputError


def read_jsonl(
    path: Path | str, *, on_bad: Callable[[InputError], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a JSON-lines file, ``.gz`` accepted; blank lines are
    passed over.

    Args:
        path: the file.
        on_bad: called with the error of a broken line, which is then skipped; without it the error
            is raised.

    Raises:
        InputError: no such file, or a line that is no JSON object, naming file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        for number, line in enumerate(_lines(path, file), 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line, object_pairs_hook=_each_once)
                if not isinstance(value, dict):
                    raise ValueError(f"a JSON object is needed, found {type(value).__name__}")
            except (ValueError, RecursionError) as error:
                bad = InputError(f"{path}:{number}: broken JSON line: {error}")
                if on_bad is None:
                    raise bad from None
                on_bad(bad)
                continue
            yield number, value


def _lines(path: Path, file: Iterable[bytes]) -> Iterator[bytes]:
    try:
        yield from file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: torn, or no gzip file: {error}") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"key {next(name for name in names if names.count(name) > 1)!r} is there twice"
        )
    return values


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
    """Write ``path`` whole or not at all: a neighbour ``.part`` file, fsync, rename, fsync of the
    directory.
    """
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


def begun_with(path: Path, settings: dict[str, Any]) -> None:
    """Note what a job that can be resumed was begun with, or see that it is resumed with the same.

    Args:
        path: JSON file in the job's own directory.
        settings: plain values.

    Raises:
        InputError: begun with another value.
    """
    settings = json.loads(json.dumps(settings))
    if not path.is_file():
        with write_aside(path) as file:
            json.dump(settings, file, indent=1)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    for name in sorted(before.keys() | settings.keys()):
        if (was := before.get(name)) != (now := settings.get(name)):
            raise InputError(
                f"{path.parent}: begun with {name} {was!r}, now {now!r}; take the same again, or "
                "delete the directory"
            )
