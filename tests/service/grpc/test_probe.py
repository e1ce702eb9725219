"""The health check of containers, as a process of its own."""

import subprocess
import sys

import pytest

from csplade.core.errors import UnavailableError
from csplade.service.grpc.probe import status
from csplade.service.grpc.server import running
from csplade.service.ray.cluster import free_port

from ...certificates import authority, leaf


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
    code = (
        "import sys, csplade.service.grpc.probe;"
        "print({'torch', 'numpy', 'ray'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr


def test_the_health_socket_needs_neither_port_nor_certificate(
    vector_index, settings, tmp_path, monkeypatch
):
    ours = authority(tmp_path, "ours")
    server = leaf(tmp_path, "server", ours)
    socket = tmp_path / "health.sock"
    secured = settings(
        vector_index,
        server__health_socket=socket,
        security__tls_certificate=server.certificate,
        security__tls_key=server.private,
        security__client_ca=ours.certificate,
    )
    monkeypatch.setenv("CSPLADE_SERVER__HEALTH_SOCKET", str(socket))
    monkeypatch.setenv("CSPLADE_SERVER__PORT", str(free_port()))
    with running(secured):
        assert probe() == (0, f"unix:{socket} csplade.v1.RetrievalService: SERVING")
    code, line = probe()
    assert (code, line.split()[0].split(":")[0]) == (1, "localhost")


def test_a_health_socket_that_cannot_be_made_is_named(vector_index, settings, tmp_path):
    socket = tmp_path / "missing" / "health.sock"
    with (
        pytest.raises(UnavailableError, match=f"server.health_socket: cannot listen at {socket}"),
        running(settings(vector_index, server__health_socket=socket)),
    ):
        pass
