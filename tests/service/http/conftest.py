"""Servers with HTTP."""

import pytest

from csplade.index import Index
from csplade.ingest.build import build_from_corpus
from csplade.model import Encoder
from csplade.service.grpc.server import running


@pytest.fixture(scope="session")
def serve(settings):
    """Runs a server with HTTP on a free port, by settings."""

    def start(index, opener=None, **values):
        chosen = {"http__enabled": True, "http__port": 0, "scoring__threads": 1, **values}
        chosen = {"model__threads": 1, "model__device": "cpu", **chosen}
        given = () if opener is None else (opener,)
        return running(settings(index, **chosen), *given)

    return start


@pytest.fixture(scope="session")
def text_server(serve, text_index):
    with serve(text_index, http__explorer=True) as server:
        yield server


@pytest.fixture(scope="session")
def vector_server(serve, vector_index):
    with serve(vector_index, metrics__enabled=True) as server:
        yield server


@pytest.fixture(scope="session")
def other_index(tiny_model_of, text_index, tmp_path_factory):
    """Half the texts of ``text_index``, encoded by another model."""
    folder = tmp_path_factory.mktemp("other")
    with Index.open(text_index) as index:
        documents = index.fetch([0] * 24, range(24))
    lines = [f'{{"_id": "{one.id}", "title": "T", "text": "{one.text}"}}\n' for one in documents]
    (folder / "corpus.jsonl").write_text("".join(lines))
    model = Encoder.from_pretrained(tiny_model_of(logit_scale=0.4))
    build_from_corpus(folder / "corpus.jsonl", folder / "index", model)
    return folder / "index"


@pytest.fixture(scope="session")
def other(serve, other_index):
    with serve(other_index) as server:
        yield server


@pytest.fixture(scope="session")
def near(serve, text_index, other):
    """A server that may ask ``other`` as b, and a service that is not there as gone."""
    services = [
        {"name": "b", "target": other.address},
        {"name": "gone", "target": "127.0.0.1:1"},
    ]
    with serve(text_index, http__explorer=True, http__services=services) as server:
        yield server
