"""An application of two shards and their encoder, load on it, and hands that kill its processes."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from csplade.client.client import Client
from csplade.client.connection import ServiceError
from csplade.core.document import Document
from csplade.engine.collection import Collection
from csplade.index import BuildOptions, Index, IndexBuilder

NAME = "faults"
QUERIES = ["rivers in winter", "birds at sea", "iron and stone", "maps by night"]
PERIOD = 0.04  # seconds between requests


@dataclass(frozen=True)
class Version:
    """An index, the model that built it, and the right answer to every query, by one process."""

    name: str
    index: Path
    model: Path
    truth: dict[str, list[tuple[str, int]]]


@pytest.fixture(scope="session")
def first(text_index, tiny_model, encoder) -> Version:
    return Version("first", text_index, tiny_model, truth_of(text_index, encoder))


@pytest.fixture(scope="session")
def second(tiny_model_of, tmp_path_factory) -> Version:
    """Other documents, and another model: not one answer is the same."""
    from csplade.model import Encoder

    model = tiny_model_of(logit_scale=0.4)
    encoder = Encoder.from_pretrained(model, device="cpu")
    path = tmp_path_factory.mktemp("second-index") / "index"
    identity = {"fingerprint": encoder.fingerprint, "model": str(model), "manifest": {}}
    builder = IndexBuilder.create(path, BuildOptions(encoder.vocabulary_size, identity, shards=2))
    texts = [f"Page {i}: {query}" for i in range(12) for query in QUERIES]
    builder.add(
        [Document(f"p{i}", text) for i, text in enumerate(texts)], encoder.encode_document(texts)
    )
    builder.finish()
    return Version("second", path, model, truth_of(path, encoder))


def truth_of(path: Path, encoder) -> dict[str, list[tuple[str, int]]]:
    with Index.open(path, threads=1) as index:
        answers = Collection(index, encoder).search(QUERIES, 10, with_document=False)
    return {
        query: [(hit.id, hit.integer_score) for hit in answer.hits]
        for query, answer in zip(QUERIES, answers, strict=True)
    }


@pytest.fixture(scope="session")
def deploy(ray_cluster, first) -> Callable[..., None]:
    """Deploys a version as `serve deploy` does with a configuration file; other ``limits`` are
    other code to Serve.

    ``encoder`` are options of the encoder's deployment.
    """

    def deploy(version: Version, encoder: dict[str, Any] | None = None, **limits: int) -> None:
        from ray import serve
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        settings = {"scoring.threads": 1, "model.threads": 1, "model.device": "cpu"}
        settings |= {f"limits.{name}": value for name, value in limits.items()}
        told = {"version": version.name, "index": str(version.index), "model": str(version.model)}
        application = {
            "name": NAME,
            "route_prefix": f"/{NAME}",
            "import_path": "csplade.service.ray.app:build",
            "args": {"index": str(first.index), "settings": settings},
            "deployments": [
                {"name": "encoder", "user_config": told} | (encoder or {"num_replicas": 1}),
                {"name": "shard-0", "user_config": told},
                {"name": "shard-1", "user_config": told},
            ],
        }
        _get_global_client().deploy_apps(
            ServeDeploySchema.model_validate({"applications": [application]})
        )
        wait = threading.Event().wait
        while (status := serve.status().applications[NAME]).status == "DEPLOYING":
            wait(0.2)
        assert status.status == "RUNNING", status.message

    return deploy


@pytest.fixture(scope="session")
def application(ray_cluster, deploy, first) -> str:
    """The address of the application, which serves the first version; its name is NAME."""
    from csplade.service.ray.cluster import wait_until_serving

    deploy(first)
    wait_until_serving(ray_cluster, NAME, 180)
    return ray_cluster


class Load:
    """Requests at a steady rate, each answer judged; use as a context manager."""

    def __init__(self, address: str, versions: Sequence[Version], timeout: float) -> None:
        self._address, self._versions, self._timeout = address, versions, timeout
        self.right: Counter[str] = Counter()  # answers by the version that gave them
        self.wrong: list[object] = []
        self.errors: list[ServiceError] = []
        self._since: Counter[str] = Counter()  # likewise, since the last error
        self._changed = threading.Condition()
        self._stop = threading.Event()

    def __enter__(self):
        self._pool = ThreadPoolExecutor(20)
        self._client = Client(self._address, application=NAME, timeout=self._timeout)
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._pool.shutdown()
        self._client.close()

    def _send(self):
        due = time.monotonic()
        for number in range(10**9):
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            due += PERIOD
            self._pool.submit(self._ask, QUERIES[number % len(QUERIES)])

    def _ask(self, query):
        try:
            answer = self._client.search(query, k=10)
            found = [(hit.id, hit.integer_score) for hit in answer]
            error = None
        except ServiceError as raised:
            error = raised
        with self._changed:
            if error is not None:
                self.errors.append(error)
                self._since.clear()
            elif version := next(
                (one.name for one in self._versions if one.truth[query] == found), None
            ):
                self.right[version] += 1
                self._since[version] += 1
            else:
                self.wrong.append((query, found))
            self._changed.notify_all()

    @property
    def codes(self) -> Counter:
        return Counter(error.code for error in self.errors)

    def wait_for(self, right: int, version: Version, seconds: float = 90.0) -> None:
        """Wait for so many right answers of a version in a row from now on."""
        with self._changed:
            self._since.clear()
            came = self._changed.wait_for(
                lambda: self._since[version.name] >= right or self.wrong, seconds
            )
            assert not self.wrong
            assert came, f"{self._since} in a row, {self.codes}, last {self.errors[-1:]}"

    def wait_for_end_of(self, processes: set[psutil.Process], seconds: float = 150.0) -> None:
        """Wait until none of the processes runs, or a request has failed."""
        end = time.monotonic() + seconds
        while any(process.is_running() for process in processes) and not (
            self.errors or self.wrong
        ):
            assert time.monotonic() < end, processes
            time.sleep(0.2)


@pytest.fixture
def load(application):
    def make(*versions: Version, timeout: float = 10.0) -> Load:
        return Load(application, versions, timeout)

    return make
