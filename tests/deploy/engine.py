"""A container engine for the tests of the image: one that runs, or one started for them."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# Images and layers stay here between runs, so that only what changed is built.
FOLDER = Path(os.environ.get("CSPLADE_ENGINE", "/var/lib/csplade-docker"))
PATIENCE = 60.0  # seconds until the engine answers


@dataclass(frozen=True)
class Engine:
    """Docker's command line, with the environment that reaches the engine."""

    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *command: object, check: bool = True, **options) -> subprocess.CompletedProcess:
        """Run a command that talks to the engine; fail with what it printed."""
        done = subprocess.run(
            [str(one) for one in command],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            **options,
        )
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
        return done

    def docker(self, *arguments: object, **options) -> str:
        """Return what ``docker ARGUMENTS`` prints."""
        return self.run("docker", *arguments, **options).stdout.strip()


@contextmanager
def engine() -> Iterator[Engine]:
    """Yield an engine; skip where there is none and none can be started."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed (Debian: apt-get install docker.io debootstrap)")
    running = Engine()
    if running.run("docker", "info", check=False).returncode == 0:
        yield running
        return
    if os.geteuid() or shutil.which("dockerd") is None:
        pytest.skip("no container engine runs, and only root can start dockerd")
    FOLDER.mkdir(parents=True, exist_ok=True)
    socket = f"unix://{FOLDER}/docker.sock"
    log = FOLDER / "dockerd.log"
    command = [
        "dockerd", "--data-root", FOLDER / "data", "--exec-root", FOLDER / "exec",
        "--pidfile", FOLDER / "dockerd.pid", "--host", socket,
    ]  # fmt: skip
    own = Engine({"DOCKER_HOST": socket, "DOCKER_BUILDKIT": "0"})
    with log.open("w") as file:
        daemon = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        end = time.monotonic() + PATIENCE
        while own.run("docker", "info", check=False).returncode:
            if daemon.poll() is not None or time.monotonic() > end:
                pytest.skip(f"dockerd does not start: {log.read_text().splitlines()[-1:]}")
            time.sleep(0.2)
        yield own
    finally:
        daemon.terminate()
        daemon.wait(60)
