"""The same services twice: each in one process, and all of them on one Ray cluster. Every test here
runs on both.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import grpc
import pytest

from csplade.client.async_client import AsyncClient
from csplade.client.client import Client
from csplade.core.document import Document
from csplade.index import BuildOptions, IndexBuilder
from csplade.service.grpc.server import running

LIMITS = {
    "limits__explain_k": 20,
    "limits__text_bytes": 100,
    "limits__encode_texts": 2,
    "limits__batch_searches": 3,
    "limits__query_terms": 30,
    "server__send_bytes": 2000,
    "server__receive_bytes": 4000,
}
KEY = "open-sesame"


@dataclass(frozen=True)
class Service:
    """A running service; ``application`` is its name where several share an address."""

    address: str
    application: str | None = None
    key: str | None = None

    def client(self, key: str | None = None) -> Client:
        return Client(self.address, key=key or self.key, application=self.application)

    def async_client(self) -> AsyncClient:
        return AsyncClient(self.address, key=self.key, application=self.application)

    def channel(self) -> grpc.Channel:
        channel = grpc.insecure_channel(self.address)
        return (
            channel
            if self.application is None
            else grpc.intercept_channel(channel, _Name(self.application))
        )


class _Name(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Names the application in every call."""

    def __init__(self, application: str) -> None:
        self._pair = ("application", application)

    def _call(self, proceed, details, request):
        metadata = (*(details.metadata or ()), self._pair)
        named = details._replace(metadata=metadata)
        return proceed(named, request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _call


@pytest.fixture(scope="session", params=["single", "ray"])
def start(request, settings) -> Callable[..., Service]:
    """Starts a service by name; it runs until all tests are through."""
    with ExitStack() as stack:

        def single(name: str, index, **values) -> Service:
            server = stack.enter_context(
                running(settings(index, scoring__threads=1, model__threads=1, **values))
            )
            return Service(server.address, key=KEY if "security__keys_file" in values else None)

        def on_ray(name: str, index, **values) -> Service:
            from csplade.service.ray.cluster import run

            address = request.getfixturevalue("ray_cluster")
            run(settings(index, scoring__threads=1, model__threads=1, **values), address, name=name)
            return Service(address, name, KEY if "security__keys_file" in values else None)

        yield {"single": single, "ray": on_ray}[request.param]


@pytest.fixture(scope="session")
def one_shard_index(encoder, tiny_model, tmp_path_factory):
    """Twenty texts in one shard: on Ray, encoder and shard share a replica."""
    path = tmp_path_factory.mktemp("one-shard-index") / "index"
    identity = {"fingerprint": encoder.fingerprint, "model": str(tiny_model), "manifest": {}}
    builder = IndexBuilder.create(path, BuildOptions(encoder.vocabulary_size, identity))
    texts = [f"iron and energy, page {i}" for i in range(20)]
    builder.add(
        [Document(f"t{i}", text) for i, text in enumerate(texts)], encoder.encode_document(texts)
    )
    builder.finish()
    return path


@pytest.fixture(scope="session")
def spans(open_collector):
    """What collects the spans of ``service``."""
    with open_collector() as collector:
        yield collector


@pytest.fixture(scope="session")
def service(start, text_index, spans) -> Service:
    """Texts in two shards, with their encoder; what is asked of it is traced if the caller wants
    that.
    """
    traced = {"tracing__endpoint": spans.endpoint, "tracing__ratio": 0.0}
    return start("texts", text_index, model__device="cpu", **traced)


@pytest.fixture(scope="session")
def vector_service(start, vector_index) -> Service:
    """Vectors in three shards, without encoder."""
    return start("vectors", vector_index)


@pytest.fixture(scope="session")
def narrow_service(start, one_shard_index) -> Service:
    """Texts in one shard, with their encoder and narrow limits."""
    return start("narrow", one_shard_index, model__device="cpu", **LIMITS)


@pytest.fixture(scope="session")
def string_service(start, string_index, tmp_path_factory) -> Service:
    """Vectors keyed by strings, behind a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    return start("strings", string_index, security__keys_file=keys)


@pytest.fixture(scope="session")
def client(service):
    with service.client() as client:
        yield client


@pytest.fixture(scope="session")
def vector_client(vector_service):
    with vector_service.client() as client:
        yield client


def pytest_collection_modifyitems(items):
    """The first test on Ray waits for the cluster and its applications to start."""
    for item in items:
        if (
            getattr(item, "callspec", None) is not None
            and item.callspec.params.get("start") == "ray"
        ):
            item.add_marker(pytest.mark.timeout(600))
