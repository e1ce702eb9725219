import gzip
import json

import numpy as np
import pytest

from csplade.bench import distribution, peers, synthetic
from csplade.bench.score import compare_scorers, load_queries
from csplade.core.errors import CspladeError, InputError
from csplade.index import Index, verify


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "index"
    synthetic.build(path, 700, 40.0, 3, lambda *_: None)
    return path


def quiet(*_):
    pass


def make_queries(opened):
    return distribution.queries(4, 12, 5), "synthetic"


def test_the_synthetic_collection_is_as_stated(index):
    with Index.open(index) as opened:
        assert opened.manifest.documents == 700
        assert 38 < opened.manifest.postings / 700 < 42
        assert verify(opened, sample=5).ok
        counts = np.zeros(distribution.VOCABULARY)
        for _, _, block in opened.blocks():
            counts[block.terms] += np.diff(block.indptr)
    expected = 700 * 40 * distribution.probabilities()[:100].sum()
    assert (
        0.85 < counts[:100].sum() / expected < 1.05
    )  # a little under: a term counts once in a document


def test_queries_of_an_index_use_its_own_terms(index):
    with Index.open(index) as opened:
        shares = synthetic.term_shares(opened)
    assert abs(shares.sum() - 1) < 1e-9
    batch = distribution.queries(3, 10, 1, shares)
    assert (shares[batch.terms] > 0).all()
    few = np.zeros(9)
    few[[2, 5]] = 0.5
    assert distribution.queries(2, 10, 1, few).terms.tolist() == [2, 5, 2, 5]


def test_every_exact_scorer_agrees(index):
    report = compare_scorers(index, "x", make_queries, 50, 2, seismic=False, progress=quiet)
    assert [one.name for one in report.scorers] == [
        "csplade",
        "numba term-at-a-time",
        "scipy CSC",
        "torch.sparse CSR",
    ]
    assert all(one.exact and one.recall > 0.9 for one in report.scorers)
    assert report.scorers[0].ratio == report.scorers[0].many_ratio == 1
    assert (report.documents, report.queries, report.k) == (700, 4, 50)
    assert json.loads(json.dumps(report.to_json()))["scorers"][0]["name"] == "csplade"


def test_a_scorer_that_is_wrong_stops_the_benchmark(index, monkeypatch):
    def wrong(postings, threads):
        right = peers.top_k

        def one(query, k):
            return right(np.arange(postings.count, dtype=np.float32), k)

        return peers.Scorer("wrong", one, lambda queries, k: [one(query, k) for query in queries])

    monkeypatch.setattr(peers, "plain_numba", wrong)
    with pytest.raises(CspladeError, match="wrong: its scores differ from those of csplade"):
        compare_scorers(index, "x", make_queries, 50, 1, seismic=False, progress=quiet)


def test_real_query_vectors_take_terms_by_frequency(index, tmp_path):
    lines = [{"bear": 1.0, "hi": 0.5}, {"bear": 2.0}, {"cat": 0.001}]
    path = tmp_path / "queries.jsonl.gz"
    with gzip.open(path, "wt") as file:
        for i, vector in enumerate(lines):
            file.write(json.dumps({"id": str(i), "contents": "", "vector": vector}) + "\n")
    with Index.open(index) as opened:
        batch, name = load_queries(path, opened, 2)
    assert batch.indptr.tolist() == [0, 2, 3]
    assert batch.terms.tolist() == [0, 2, 0]  # bear, hi; bear: cat comes before hi by name
    assert batch.impacts.tolist() == [4095, 2048, 2]  # whole numbers stay
    assert "first 2, 1.5 terms on average" in name
    path = tmp_path / "bad.jsonl"
    path.write_text('{"id": "1"}\n')
    with (
        Index.open(index) as opened,
        pytest.raises(InputError, match=r"bad.jsonl:1: 'vector' is missing"),
    ):
        load_queries(path, opened, 2)
