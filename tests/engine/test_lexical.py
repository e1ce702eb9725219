"""A service whose queries cost no model."""

import urllib.request

import pytest

from csplade.client.client import Client
from csplade.engine.collection import Collection
from csplade.ingest.build import build_from_corpus
from csplade.model import Encoder
from csplade.service.grpc.server import running


@pytest.fixture(scope="module")
def lexical(tiny_model_of, tmp_path_factory):
    """An encoder and an index of three documents."""
    encoder = Encoder.from_pretrained(tiny_model_of(query_encoder="lexical"), device="cpu")
    folder = tmp_path_factory.mktemp("lexical")
    lines = [
        f'{{"_id": "{i}", "text": "{text}"}}\n'
        for i, text in enumerate(("the river", "a sea", "rain falls"))
    ]
    (folder / "corpus.jsonl").write_text("".join(lines))
    build_from_corpus(folder / "corpus.jsonl", folder / "index", encoder)
    return encoder, folder / "index"


def test_info_stages_and_metrics_show_it(lexical, settings):
    encoder, index = lexical
    with (
        running(settings(index, metrics__enabled=True)) as server,
        Client(server.address) as client,
    ):
        assert client.info().model["manifest"]["query_encoder"] == "lexical"
        answer = client.search("the river")
        assert answer.timings["encode"] == 0
        assert answer.timings["sparsify"] > 0
        assert answer.query_terms == len(
            set(encoder.tokenize(["the river"], "query").ids[0].tolist())
        )
        with urllib.request.urlopen(
            f"http://{server.metrics_address}/metrics", timeout=10
        ) as response:
            metrics = response.read().decode()
    assert 'query_encoder="lexical"' in metrics
    assert 'csplade_stage_seconds_count{stage="encode"} 0.0' in metrics


def test_queries_of_a_table_are_not_clipped(lexical):
    encoder, path = lexical
    with Collection.open(path) as engine:
        (answer,) = engine.search(["river sea rain"], 10)
        assert answer.cut.impacts == 0
        assert engine.encoder.fingerprint == encoder.fingerprint
