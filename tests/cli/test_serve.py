"""``csplade serve`` as a process: its address line, its exit codes, and SIGTERM with a request in
flight.
"""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from csplade.client.client import Client
from csplade.client.connection import ServiceError
from csplade.service.names import RETRIEVAL

COMMAND = [sys.executable, "-c", "from csplade.cli.main import main; main()", "serve"]

# The command with an index whose searches say that they have begun, then wait for a line on
# standard input.
HELD = """
import sys
from csplade.index.read.snapshot import Snapshot
from csplade.cli.main import main

search = Snapshot.search

def held(self, queries, k, mask=None, **options):
    if k > 1:  # a server searches for one document while it starts
        print("searching", flush=True)
        sys.stdin.readline()
    return search(self, queries, k, mask, **options)

Snapshot.search = held
main()
"""


@pytest.fixture
def process():
    started = []

    def start(command, *arguments):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen([*command, *map(str, arguments)], text=True, **pipes))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def test_sigterm_lets_the_request_in_flight_finish(process, vector_index, random_queries):
    options = ["--port", 0, "--no-metrics", "--threads", 1, "--no-model"]
    options += ["--set", "server.lame_duck_seconds=0"]
    served = process([sys.executable, "-c", HELD, "serve"], vector_index, *options)
    address = served.stdout.readline().strip()
    with (
        Client(address) as client,
        grpc.insecure_channel(address) as channel,
        ThreadPoolExecutor(1) as pool,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=RETRIEVAL)
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        # A search with documents is never run on the event loop, which this one would hold.
        in_flight = pool.submit(client.search, random_queries[0], with_document=True)
        assert served.stdout.readline() == "searching\n"
        served.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(ServiceError, match="UNAVAILABLE: the server is shutting down"):
            client.search(random_queries[1])
        served.stdin.write("go on\n")
        served.stdin.flush()
        assert in_flight.result(30).hits
        watch.cancel()
    assert served.wait(30) == 0
    assert "Traceback" not in served.stderr.read()


def test_settings_come_from_file_and_flags(process, vector_index, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        f"index: {vector_index}\nserver: {{port: 0}}\nmetrics: {{port: 0}}\nlimits: {{k: 7}}"
    )
    served = process(
        COMMAND, "--config", config, "--set", "limits.query_terms=9", "--set", "batching.queue=65"
    )
    with Client(served.stdout.readline().strip()) as client:
        limits = client.info().limits
    assert (limits["k"], limits["query_terms"], limits["queue"]) == (7, 9, 65)
    served.send_signal(signal.SIGINT)
    assert served.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["--port", "0"], 1, "csplade: index: not set"),
        (
            ["{index}", "--set", "limits.kk=1"],
            1,
            "csplade: flags: limits.kk: unknown key; known are k, ",
        ),
        (
            ["{index}", "--set", "limits"],
            1,
            "csplade: --set: 'limits' has no '='; must be KEY=VALUE",
        ),
        (["{index}", "--port", "99999"], 1, "csplade: flags: server.port = 99999: "),
        (["{nothing}", "--port", "0", "--metrics-port", "0"], 1, "nothing: no index here"),
        (["{index}", "--prot", "0"], 2, "--prot"),
    ],
)
def test_bad_arguments_are_one_line_and_a_status(
    process, vector_index, tmp_path, arguments, status, complaint
):
    filled = [one.format(index=vector_index, nothing=tmp_path / "nothing") for one in arguments]
    failed = process(COMMAND, *filled)
    output, errors = failed.communicate(timeout=60)
    assert (failed.returncode, output) == (status, "")
    assert complaint in errors
    assert "Traceback" not in errors
