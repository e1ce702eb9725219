import json

import numpy as np
import pytest
import torch

from csplade.bench import device as bench_device
from csplade.bench import distribution
from csplade.bench.synthetic_device import collection
from csplade.core.errors import CspladeError
from csplade.kernels.score.search import search_blocks
from csplade.kernels.score.types import Queries

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def postings():
    return collection(700, 40.0, distribution.VOCABULARY, 3, CPU, block_size=256)


def test_the_collection_is_as_stated(postings):
    assert postings.block_documents.tolist() == [256, 256, 188]
    lengths = postings.indptr.diff()
    assert 38 < int(lengths.sum()) / 700 < 42
    assert int(lengths.min()) > 0
    assert len(postings.locals) == len(postings.impacts) == int(postings.indptr[-1])
    counts = np.zeros(distribution.VOCABULARY)
    per_document = np.zeros(700)
    for b in range(3):
        first, last = postings.block_term_indptr[b : b + 2].tolist()
        assert (postings.terms[first:last].diff() > 0).all()
        counts[postings.terms[first:last].numpy()] += lengths[first:last].numpy()
        for row in range(first, last):
            start, end = postings.indptr[row : row + 2].tolist()
            documents = postings.locals[start:end].numpy().astype(np.int64)
            assert (np.diff(documents) > 0).all()
            per_document[256 * b + documents] += 1
    # A document has as many terms as Poisson(40) says, no two of them the same.
    assert abs(per_document.mean() - 40) < 1
    assert 30 < per_document.var() < 52
    expected = 700 * 40 * distribution.probabilities()[:100].sum()
    assert (
        0.85 < counts[:100].sum() / expected < 1.05
    )  # a little under: a term counts once in a document
    logs = np.log(postings.impacts.numpy().astype(np.float64))
    assert abs(logs.mean() - 3.2) < 0.05
    assert abs(logs.std() - 0.7) < 0.05


def test_a_seed_gives_one_collection(postings):
    again = collection(700, 40.0, distribution.VOCABULARY, 3, CPU, block_size=256)
    other = collection(700, 40.0, distribution.VOCABULARY, 4, CPU, block_size=256)
    assert torch.equal(again.impacts, postings.impacts)
    assert torch.equal(again.terms, postings.terms)
    assert not torch.equal(other.terms[:1000], postings.terms[:1000])


def test_the_plain_answer_takes_any_piece(postings, monkeypatch):
    query = distribution.queries(1, 30, 5)
    whole = bench_device.plain_answer(*query.row(0), postings, 50)
    monkeypatch.setattr(bench_device, "PIECE", 1000)
    pieces = bench_device.plain_answer(*query.row(0), postings, 50)
    np.testing.assert_array_equal(pieces[0], whole[0])
    assert pieces[1:] == whole[1:]
    assert whole[1] > 100
    assert len(whole[0]) == 50


def test_the_benchmark_runs_without_a_gpu():
    steps = []
    report = bench_device.run(
        300,
        30.0,
        8,
        20,
        device="cpu",
        batches=(1, 3),
        rounds=2,
        progress=lambda *step: steps.append(step),
    )
    assert (report.made.documents, report.made.backend, report.made.k, report.repeatable) == (
        300,
        "torch",
        20,
        True,
    )
    assert [one.batch for one in report.batches] == [1, 3]
    assert all(
        one.device >= one.score > 0 and one.whole > 0 and one.graph is None
        for one in report.batches
    )
    assert all(0 < one.postings < report.made.postings for one in report.batches)
    assert steps == [("batches", 1, 2), ("batches", 2, 2)]
    assert json.loads(json.dumps(report.to_json()))["batches"][1]["batch"] == 3


def test_a_wrong_answer_stops_the_benchmark(postings):
    batch = distribution.queries(2, 30, 5)
    found = search_blocks(Queries.from_impacts(batch, CPU), postings, 20)
    bench_device._check(found, batch, postings, 20)
    found.keys[1, 3] += 1
    with pytest.raises(CspladeError, match="query 1: the answer differs"):
        bench_device._check(found, batch, postings, 20)
