"""The health check of containers, as a process of its own."""

import subprocess
import sys

import pytest

from csplade.service.grpc.probe import status
from csplade.service.grpc.server import running
from csplade.service.ray.cluster import free_port


def probe(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "csplade.service.grpc.probe", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.strip()


@pytest.fixture(scope="module")
def address(vector_index, settings):
    with running(settings(vector_index)) as server:
        yield server.address


def test_exit_code_and_line_say_whether_the_service_is_ready(address):
    assert probe(address) == (0, f"{address} csplade.v1.RetrievalService: SERVING")
    assert probe(address, "--service", "") == (0, f"{address} server: SERVING")
    assert probe(address, "--service", "other") == (1, f"{address} other: NOT_FOUND")


def test_nobody_there_is_not_ready():
    assert status(f"127.0.0.1:{free_port()}", timeout=1.0) == "UNAVAILABLE"


def test_nothing_but_grpc_is_loaded():
    code = "import sys, csplade.service.grpc.probe; print({'torch', 'numpy', 'ray'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
