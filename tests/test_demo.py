"""The whole way, from the example corpus to explained answers over gRPC."""

import re

import pytest
from typer.testing import CliRunner

from csplade.cli import demo
from csplade.cli.main import app
from csplade.client.client import Client
from csplade.core.beir import load_dataset
from csplade.engine.collection import Collection
from csplade.index import Index
from csplade.ingest.build import build_from_corpus
from csplade.model import Encoder
from csplade.model.checkpoint.base import base_directory
from csplade.model.checkpoint.layout import EMBEDDED
from csplade.service import settings as config
from csplade.service.grpc.server import running

NDCG_FLOOR = 0.50  # of the embedded model, which gives 0.526; to be raised with it


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of csplade's own, with the base model in it if the user's has one."""
    base = base_directory()
    monkeypatch.setenv("CSPLADE_CACHE", str(tmp_path))
    if base.is_dir():
        (tmp_path / base.name).symlink_to(base)
    return tmp_path


def _demo(*options):
    result = CliRunner().invoke(app, ["demo", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_demo_answers_its_questions_and_measures(tiny_model, cache):
    shown = _demo("--model", str(tiny_model))
    for question in demo.QUESTIONS:
        assert f'"{question}"' in shown
    assert re.search(r"Indexed 374 passages, .* in [\d.]+ s\.", shown)
    assert re.search(
        r"question +queue +tokenize +encode +sparsify +score +select +merge +fetch +total", shown
    )
    assert re.search(r"All 139 judged example queries in .*nDCG@10 0\.\d{4}", shown)
    _, live = shown.split("A passage is written")
    created, found, filtered, again, deleted, gone = live.splitlines()[1:7]
    assert re.fullmatch(r"  created demo-lighthouse: generation 2, \d+ ms", created)
    assert re.fullmatch(r"  searched: rank \d+, \d+ passages match", found)
    assert filtered == "  filtered by its year, 1987: 1 of 375"
    assert again == "  the same again: unchanged"
    assert deleted == "  deleted demo-lighthouse: generation 3"
    assert re.fullmatch(r"  searched: it is not there, \d+ passages match", gone)


def test_demo_uses_the_index_of_an_earlier_run_and_asks_what_it_is_told_to(tiny_model, cache):
    first = _demo(
        "--model", str(tiny_model), "--question", "why do cats purr", "--question", "bread"
    )
    assert re.findall(r'^"(.+)": \d+ passages match', first, re.MULTILINE) == [
        "why do cats purr",
        "bread",
    ]
    second = _demo("--model", str(tiny_model), "--question", "why do cats purr")
    assert "by an earlier run" in second
    assert _block(first, "why do cats purr") == _block(second, "why do cats purr")


def _block(shown, question):
    """What stands below a question, up to the next empty line."""
    return shown.split(f'"{question}"')[1].split("\n\n")[0]


def test_demo_leaves_its_cached_index_as_it_was(tiny_model, cache):
    _demo("--model", str(tiny_model), "--question", "bread")
    (manifest,) = (cache / "demo").glob("*/index.json")
    before = {path: path.read_bytes() for path in manifest.parent.rglob("*") if path.is_file()}
    _demo("--model", str(tiny_model), "--question", "bread")
    after = {path: path.read_bytes() for path in manifest.parent.rglob("*") if path.is_file()}
    assert before == after


def test_contributions_sum_to_the_score_and_the_reference_agrees(tiny_model, tmp_path):
    dataset = load_dataset(demo.EXAMPLES)
    encoder = Encoder.from_pretrained(tiny_model)
    build_from_corpus(dataset.corpus, tmp_path / "index", encoder, shards=3)
    settings = config.load(
        flags={"index": tmp_path / "index", "server.port": 0, "metrics.enabled": False}
    )
    with (
        running(settings, lambda _: Collection(Index.open(tmp_path / "index"), encoder)) as server,
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
@pytest.mark.skipif(
    not (EMBEDDED / "csplade.json").is_file(), reason="no embedded model is committed"
)
@pytest.mark.skipif(
    not base_directory().is_dir(), reason="the base is not in the cache: csplade model pull"
)
@pytest.mark.timeout(600)
def test_embedded_model_answers_the_example_queries(cache):
    assert float(re.search(r"nDCG@10 ([\d.]+),", _demo())[1]) >= NDCG_FLOOR
