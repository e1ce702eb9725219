"""Open the files of an index directory: plain files inside it, never links, pipes or devices."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import CorruptError


def require_plain_file(path: Path) -> None:
    """Check that a path is a plain file itself.

    Raises:
        CorruptError: a link, a directory, a pipe or a device.
    """
    _require_plain(path, path.lstat())


def read_plain_file(path: Path) -> bytearray:
    """Return the content of a plain file, without following a link and without waiting for a pipe.

    Raises:
        FileNotFoundError: no such file.
        CorruptError: a link, a directory, a pipe or a device.
    """
    require_plain_file(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        _require_plain(path, status)
        content = bytearray(status.st_size)
        with open(descriptor, "rb", closefd=False) as file:
            return content[: file.readinto(content)]
    finally:
        os.close(descriptor)


def _require_plain(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CorruptError(f"{path}: is not a plain file; restore it or build the index again")


def require_plain_name(name: object, path: Path) -> None:
    """Check that a name from the manifest at ``path`` names a file beside it.

    Raises:
        CorruptError: a path, an empty or a hidden name.
    """
    if not isinstance(name, str) or not name or name[0] == "." or "/" in name or "\0" in name:
        raise CorruptError(
            f"{path}: {name!r:.80} is not a file name inside the directory; build the index again"
        )


def lock_shared(path: Path) -> int:
    """Return a descriptor that keeps :func:`exclusively` out of a directory until it is closed."""
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
    except BaseException:
        os.close(lock)
        raise
    return lock


@contextmanager
def exclusively(path: Path) -> Iterator[bool]:
    """Keep :func:`lock_shared` waiting inside the block; False if another has it."""
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)
