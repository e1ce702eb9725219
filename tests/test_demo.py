"""The whole way, from the example corpus to explained answers over gRPC."""

import re

import pytest
from typer.testing import CliRunner

from csplade.cli import demo
from csplade.cli.main import app
from csplade.evaluation.dataset import load_dataset
from csplade.index import Index
from csplade.model import Encoder
from csplade.model.base import base_directory
from csplade.model.load import EMBEDDED
from csplade.service import config
from csplade.service.client import Client
from csplade.service.engine import Engine
from csplade.service.indexing import build_from_corpus
from csplade.service.server import running

NDCG_FLOOR = 0.50


def test_demo_answers_its_questions_and_measures(tiny_model):
    result = CliRunner().invoke(app, ["demo", "--model", str(tiny_model)], catch_exceptions=False)
    assert result.exit_code == 0
    for question in demo.QUESTIONS:
        assert f'"{question}"' in result.stdout
    assert "Indexed 374 passages" in result.stdout
    assert re.search(
        r"question +queue +tokenize +encode +sparsify +score +select +merge +fetch +total", result.stdout
    )
    assert re.search(r"All 139 judged example queries in .*nDCG@10 0\.\d{4}", result.stdout)


def test_demo_asks_what_it_is_told_to(tiny_model):
    told = ["demo", "--model", str(tiny_model), "--question", "why do cats purr", "--question", "bread"]
    result = CliRunner().invoke(app, told, catch_exceptions=False)
    assert re.findall(r'^"(.+)": \d+ passages match', result.stdout, re.MULTILINE) == [
        "why do cats purr",
        "bread",
    ]


def test_contributions_sum_to_the_score_and_the_reference_agrees(tiny_model, tmp_path):
    dataset = load_dataset(demo.EXAMPLES)
    encoder = Encoder.from_pretrained(tiny_model)
    build_from_corpus(dataset.corpus, tmp_path / "index", encoder, shards=3)
    settings = config.load(flags={"index": tmp_path / "index", "server.port": 0, "metrics.enabled": False})
    with (
        running(settings, lambda _: Engine(Index.open(tmp_path / "index"), encoder)) as server,
        Client(server.address) as client,
    ):
        texts = list(dataset.queries.values())[::6]
        for answer in client.search_many(texts, 20, explain=True):
            assert len(answer) == 20
            for hit in answer:
                assert sum(one.product for one in hit.contributions) == hit.integer_score
                assert hit.score == pytest.approx(hit.integer_score * answer.score_scale, rel=1e-6)
        assert client.verify(texts[0], 374).identical


@pytest.mark.slow
@pytest.mark.skipif(not (EMBEDDED / "csplade.json").is_file(), reason="no embedded model is committed")
@pytest.mark.skipif(not base_directory().is_dir(), reason="the base is not in the cache: csplade model pull")
def test_embedded_model_answers_the_example_queries():
    result = CliRunner().invoke(app, ["demo"], catch_exceptions=False)
    assert result.exit_code == 0
    assert float(re.search(r"nDCG@10 ([\d.]+),", result.stdout)[1]) >= NDCG_FLOOR
