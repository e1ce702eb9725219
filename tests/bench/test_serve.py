"""The service beside its peers, on real servers of this machine."""

import json

import pytest

from csplade.bench import distribution, engines, serve, synthetic
from csplade.bench.peers import TermPostings, csplade
from csplade.index import Index


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    path = tmp_path_factory.mktemp("serve") / "index"
    synthetic.build(path, 300, 30.0, 3, lambda *_: None)
    return path


@pytest.fixture(scope="module")
def service(index):
    from csplade.service.grpc.server import running
    from csplade.service.settings import load

    flags = {
        "index": index,
        "model.enabled": False,
        "server.port": 0,
        "metrics.enabled": False,
        "logging.requests": False,
    }
    with running(load(flags=flags)) as server:
        yield server.address


def make_queries(opened):
    return distribution.queries(5, 12, 5), "synthetic"


def compared(index, service):
    from csplade.loadtest.echo import answering

    with answering(10) as echo:
        return serve.compare_services(
            index,
            "x",
            make_queries,
            10,
            1,
            service=service,
            echo=echo,
            progress=lambda *_: None,
        )


def test_the_service_and_the_scorer_agree_and_the_echo_does_not_rank(index, service, monkeypatch):
    monkeypatch.setattr(engines, "BUILDERS", {"no_such_package": None})
    report = compared(index, service)
    served, echo, scorer = report.scorers
    assert (served.exact, served.recall, served.ratio) == (True, 1.0, 1.0)
    assert (echo.exact, echo.recall) == (None, None)
    assert (scorer.exact, scorer.recall) == (True, 1.0)
    assert all(0 < one.milliseconds <= one.p99 for one in report.scorers)
    assert report.left_out == ("no_such_package is not installed; pip install 'csplade[bench]'",)
    assert f"left out: {report.left_out[0]}" in report.notes()
    lines = report.markdown()
    assert {line.count("|") for line in lines[: 2 + len(report.scorers)]} == {9}
    assert json.loads(json.dumps(report.to_json()))["scorers"][1]["recall"] is None


@pytest.mark.parametrize(
    ("package", "recall"), [("bmp", 0.8), ("qdrant_edge", 1.0), ("bm25s", 0.1)]
)
def test_an_engine_ranks_the_postings_of_the_index(index, tmp_path, package, recall):
    pytest.importorskip(package)
    with Index.open(index, threads=1) as opened:
        queries = list(make_queries(opened)[0])
        engine = engines.BUILDERS[package](TermPostings.of(opened), 1, tmp_path)
        ours = csplade(opened, opened)
        truth = [set(ours.one(query, 10)[0]) for query in queries]
        found = [set(documents) for documents, _ in engine.many(queries, 10)]
    shares = [len(one & other) / len(one) for one, other in zip(truth, found, strict=True)]
    assert sum(shares) / len(shares) >= recall
    if engine.exact:
        assert truth == found
