import json

import numpy as np
import pytest
import torch

from csplade.bench import device as bench_device
from csplade.bench import distribution
from csplade.bench.synthetic_device import collection
from csplade.core.errors import CspladeError
from csplade.kernels.score.layout import entries
from csplade.kernels.score.search import search_blocks
from csplade.kernels.score.types import Queries

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def postings():
    return collection(700, 40.0, distribution.VOCABULARY, 3, CPU, block_size=256)


def test_the_collection_is_as_stated(postings):
    rows, documents, impacts = (each.numpy() for each in entries(postings))
    assert postings.blocks == 3
    assert documents.max() < 700
    assert 38 < len(rows) / 700 < 42
    # A document has as many terms as Poisson(40) says, no two of them the same.
    assert len(np.unique(rows * 1000 + documents)) == len(rows)
    per_document = np.bincount(documents, minlength=700)
    assert abs(per_document.mean() - 40) < 1
    assert 30 < per_document.var() < 52
    # Rows go by frequency, and so do the terms of the distribution.
    counts = np.bincount(rows)
    assert (np.diff(counts) <= 0).all()
    counts = np.append(counts, 0)[postings.rows[:100]]
    expected = 700 * 40 * distribution.probabilities()[:100].sum()
    assert 0.85 < counts.sum() / expected < 1.05  # less: a term counts once in a document
    logs = np.log(impacts.astype(np.float64))
    assert abs(logs.mean() - 3.2) < 0.05
    assert abs(logs.std() - 0.7) < 0.05


def test_a_seed_gives_one_collection(postings):
    again = collection(700, 40.0, distribution.VOCABULARY, 3, CPU, block_size=256)
    other = collection(700, 40.0, distribution.VOCABULARY, 4, CPU, block_size=256)
    assert torch.equal(again.impacts, postings.impacts)
    assert torch.equal(again.starts, postings.starts)
    assert not torch.equal(other.starts[:100, 1], postings.starts[:100, 1])


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
