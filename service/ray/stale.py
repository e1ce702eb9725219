"""End what a killed ``csplade serve --ray`` left behind: its HAProxy would keep the port."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

SCRATCH_PREFIX = "csplade-"
DRIVER_FILE = "driver.pid"


def mark(scratch: Path) -> None:
    """Note that the cluster with this scratch directory belongs to this process."""
    (scratch / DRIVER_FILE).write_text(str(os.getpid()))


def end_stale_clusters(variable: str) -> None:
    """End the processes of clusters of this user whose driver is gone, and remove their scratch.

    Args:
        variable: An environment variable that every process of a cluster has; its value is a path
            in the scratch directory.
    """
    for note in Path(tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*/{DRIVER_FILE}"):
        scratch = note.parent
        try:
            driver = int(note.read_text())
        except (OSError, ValueError):
            continue
        if note.stat().st_uid != os.getuid() or Path(f"/proc/{driver}").exists():
            continue
        ended = 0
        for process in _processes(variable, scratch):
            try:
                os.kill(process, signal.SIGKILL)
                ended += 1
            except OSError:
                continue
        log.warning("ended %d processes of a cluster whose driver %d was killed", ended, driver)
        shutil.rmtree(scratch, ignore_errors=True)


def _processes(variable: str, scratch: Path) -> Iterator[int]:
    wanted = f"{variable}={scratch}/".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            values = entry.read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or another user's
            continue
        if any(value.startswith(wanted) for value in values):
            yield int(entry.parent.name)
