"""Start ``csplade serve`` in a process of its own, for a comparison."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..core.errors import UnavailableError
from .bounds import Mode

SERVE = [sys.executable, "-c", "from csplade.cli.main import main; main()", "serve"]


@contextmanager
def serving(
    index: Path,
    mode: Mode,
    directory: Path,
    tell: Callable[[str], None],
    options: Sequence[str] = (),
) -> Iterator[tuple[str, int]]:
    """Serve an index and its encoder on free ports; yield ``host:port`` and the process id.

    Args:
        index: directory of the index.
        mode: one process, or Ray.
        directory: where the log is written.
        tell: called with a line as it goes on.
        options: further options of ``csplade serve``.

    Raises:
        UnavailableError: the service does not start.
    """
    log = directory / f"serve-{mode}.log"
    arguments = [str(index), "--port", "0", "--metrics-port", "0", *options]
    arguments += ["--ray"] if mode == "ray" else []
    tell(f"starting: csplade serve {shlex.join(arguments)}, log in {log}")
    with (
        log.open("wb") as errors,
        subprocess.Popen([*SERVE, *arguments], stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        try:
            started = time.monotonic()
            address = process.stdout.readline().decode().strip()
            if not address:
                raise UnavailableError(
                    f"csplade serve: it exited with status {process.wait()}; see {log}"
                )
            tell(f"ready after {time.monotonic() - started:.0f} s")
            yield address, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
