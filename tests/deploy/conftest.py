"""A real Prometheus that scrapes a real server while it answers."""

import json
import math
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from csplade.client.client import Client
from csplade.client.connection import ServiceError
from csplade.engine.collection import Collection
from csplade.index import IndexWriter
from csplade.ingest.build import build_from_corpus
from csplade.model import Encoder
from csplade.service import settings as config
from csplade.service.grpc.server import Server, running

DEPLOY = Path(__file__).parents[2] / "deploy"
EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 90.0  # seconds for scrapes and evaluations, of one second each, on a busy machine


@pytest.fixture(scope="session")
def promtool() -> str:
    return _program("promtool")


def _program(name: str) -> str:
    if (path := shutil.which(name)) is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install prometheus)")
    return path


class Prometheus:
    """One that runs; ``ask`` is its HTTP interface."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, **parameters: str) -> dict:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as response:
            return json.load(response)

    def values(self, query: str) -> list[float]:
        """The finite values that a query has now; an HTTPError when it does not parse."""
        result = self.ask("query", query=query)["data"]["result"]
        found = [float(series["value"][1]) for series in result]
        return [value for value in found if math.isfinite(value)]


@pytest.fixture(scope="session")
def encoder(tiny_model) -> Encoder:
    return Encoder.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="session")
def example_index(encoder, tmp_path_factory) -> Path:
    """The example corpus, encoded by a tiny model, in two shards."""
    path = tmp_path_factory.mktemp("watched") / "index"
    build_from_corpus(EXAMPLES / "corpus.jsonl", path, encoder, shards=2)
    return path


@pytest.fixture(scope="session")
def example_server(example_index, encoder) -> Iterator[Server]:
    flags = {"index": example_index, "server.port": 0, "metrics.port": 0, "logging.requests": False}

    def opener(_: config.Settings) -> Collection:
        writer = IndexWriter.open(example_index, threads=1)
        return Collection(writer.index, encoder, writer=writer)

    with running(config.load(None, flags), opener) as server:
        yield server


@contextmanager
def started(
    folder: Path, targets: list[str], discovery: Path | None = None
) -> Iterator[Prometheus]:
    """Prometheus with the deployed configuration; only addresses and intervals are its own.

    Args:
        folder: an empty one.
        targets: metrics endpoints of single processes.
        discovery: the file in which Ray writes down its nodes.
    """
    program = _program("prometheus")
    shutil.copytree(DEPLOY / "prometheus", folder, dirs_exist_ok=True)
    (folder / "targets.yml").write_text(yaml.safe_dump([{"targets": targets}]))
    settings = yaml.safe_load((folder / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (ray,) = (job for job in settings["scrape_configs"] if job["job_name"] == "csplade-ray")
    ray["file_sd_configs"] = [{"files": [str(discovery or folder / "none.json")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": address,
        "log.level": "warn",
    }
    with (folder / "log").open("w") as log:
        command = [program, *(f"--{name}={value}" for name, value in options.items())]
        process = subprocess.Popen(command, stderr=log)
        try:
            _wait_until_ready(process, address, folder / "log")
            yield Prometheus(address)
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_ready(process: subprocess.Popen, address: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://{address}/-/ready", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"Prometheus does not start: {log.read_text()}")


@pytest.fixture(scope="session")
def prometheus(example_server, tmp_path_factory) -> Iterator[Prometheus]:
    """With the deployed configuration, but for addresses and intervals."""
    with started(
        tmp_path_factory.mktemp("prometheus"), targets=[example_server.metrics_address]
    ) as one:
        yield one


@pytest.fixture(scope="session")
def eventually(example_server, prometheus) -> Callable[[dict[str, str]], list[str]]:
    """Keeps the server busy until every query has data; returns those that stay without."""
    return lambda queries: busy_until(example_server.address, prometheus, queries)


def busy_until(address: str, prometheus: Prometheus, queries: dict[str, str]) -> list[str]:
    """Asks a server for all that it can do until every query has data; returns those that stay
    without.
    """
    lines = (EXAMPLES / "queries.jsonl").read_text().splitlines()[:8]
    questions = [json.loads(line)["text"] for line in lines]
    missing = dict(queries)
    end = time.monotonic() + PATIENCE
    with Client(address) as client:
        while missing and time.monotonic() < end:
            for question in questions:
                client.search(question, k=5, with_document=True, explain=True)
            client.search("many words " * 50, k=5)  # more tokens than the model takes
            client.encode(questions[:2])
            client.verify(questions[0], k=5)
            list(client.search_many(questions, k=5))
            if client.info().index["writable"]:
                (stored,) = client.search(questions[0], k=1, with_document=True)
                client.upsert([stored.document])  # which changes nothing
            with pytest.raises(ServiceError):
                client.search("k is out of range", k=100_000)
            missing = {
                name: query for name, query in missing.items() if not prometheus.values(query)
            }
    return sorted(missing)
