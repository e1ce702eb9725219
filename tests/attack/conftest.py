"""A server as a process of its own, and an index for it; attackers are in the tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

settings.register_profile("long", max_examples=20_000)


class Attacked:
    """A running ``csplade serve``."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address

    @property
    def rss(self) -> int:
        """Resident bytes of the process."""
        return psutil.Process(self.process.pid).memory_info().rss


@pytest.fixture
def attacked(vector_index: Path) -> Callable[..., Iterator[Attacked]]:
    """Start servers of the vector index; options are settings, ``server__port`` for one."""

    @contextmanager
    def attacked(**values: object) -> Iterator[Attacked]:
        values = {"logging__requests": False, "server__port": 0, **values}
        settings = [
            part
            for key, value in values.items()
            for part in ("--set", f"{key.replace('__', '.')}={value}")
        ]
        command = [Path(sys.executable).with_name("csplade"), "serve", vector_index, "--no-model"]
        process = subprocess.Popen(
            [*map(str, command), "--threads", "1", "--metrics-port", "0", *settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        try:
            yield Attacked(process, process.stdout.readline().strip())
        finally:
            process.kill()
            process.wait()

    return attacked
