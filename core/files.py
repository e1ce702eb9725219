"""Files that are whole or absent, however a process ends, and their checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import InputError


def file_sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_new(path: Path) -> None:
    """Check, before long work, that a file can be written and replaces nothing.

    Raises:
        InputError: there is something already, or the folder does not exist.
    """
    if path.exists():
        raise InputError(f"{path}: exists already; delete it or write elsewhere")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")


def sync_directory(path: Path | str) -> None:
    """Make the renames inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def share_files(directory: Path | str) -> None:
    """Let whoever may read a directory read its files.

    safetensors makes files that only their owner can read, so that a server of another user finds
    no weights.
    """
    allowed = os.stat(directory).st_mode & 0o666
    for entry in os.scandir(directory):
        if entry.is_file(follow_symlinks=False):
            os.chmod(entry.path, allowed)


@contextmanager
def write_aside(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Write ``path`` whole or not at all: a neighbour ``.part`` file, fsync, rename, fsync of the
    directory.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    try:
        # Anew and exclusively: what lies there may be a link or a pipe.
        aside.unlink(missing_ok=True)
        with open(
            aside, "x" + mode.removeprefix("w"), encoding=None if "b" in mode else "utf-8"
        ) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
