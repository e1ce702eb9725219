"""What a killed driver left is found by its environment and ended; what lives is left alone."""

import os
import subprocess
import sys

import pytest

from csplade.service.ray import stale

VARIABLE = "CSPLADE_TEST_STALE"


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """A scratch directory of a cluster, in a directory for temporary files of its own."""
    monkeypatch.setattr(stale.tempfile, "gettempdir", lambda: str(tmp_path))
    directory = tmp_path / f"{stale.SCRATCH_PREFIX}abc"
    directory.mkdir()
    return directory


@pytest.fixture
def left(scratch):
    """A process of that cluster."""
    environment = os.environ | {VARIABLE: f"{scratch}/stopping"}
    process = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment
    )
    yield process
    process.kill()
    process.communicate()


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_processes_of_a_dead_driver_are_ended(scratch, left):
    (scratch / stale.DRIVER_FILE).write_text(str(ended_process()))
    stale.end_stale_clusters(VARIABLE)
    assert left.wait(30) == -9
    assert not scratch.exists()


def test_a_living_drivers_cluster_is_left_alone(scratch, left):
    stale.mark(scratch)
    stale.end_stale_clusters(VARIABLE)
    assert left.poll() is None
    assert scratch.exists()
