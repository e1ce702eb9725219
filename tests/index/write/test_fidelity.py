"""Rankings by impacts keep those by float32, whatever the weights look like."""

import numpy as np
import pytest

from csplade.core.document import Document
from csplade.core.vectors import SparseBatch
from csplade.index import BuildOptions, Index, IndexBuilder
from csplade.index.write.fidelity import choose_scale, measure

TERMS = 400


def collection(draw, documents=2000, terms=60, seed=7):
    """Documents of distinct terms with weights that ``draw(rng, count)`` gives."""
    rng = np.random.default_rng(seed)
    rows = [rng.choice(TERMS, terms, replace=False) for _ in range(documents)]
    return SparseBatch.from_rows([(row, draw(rng, terms)) for row in rows])


def outlier(rng, count):
    """Weights of 0 to 3; one in some 10,000 is 1200."""
    weights = rng.uniform(0.2, 3, count)
    weights[rng.random(count) < 1e-4] = 1200
    return weights


WEIGHTS = {
    "splade": lambda rng, n: np.log1p(np.abs(rng.normal(0, 1.5, n))) + 0.01,
    "bge-m3": lambda rng, n: rng.uniform(0.004, 0.05, n),
    "bge-m3 skewed": lambda rng, n: rng.beta(1, 12, n) * 0.5 + 1e-4,
    "bm25": lambda rng, n: rng.gamma(6, 0.3, n),
    "heavy tail": lambda rng, n: rng.lognormal(-1, 1.5, n),
    "outlier": outlier,
    "integers": lambda rng, n: np.clip(rng.lognormal(3.9, 0.8, n).astype(int), 1, 345),
    "large integers": lambda rng, n: rng.integers(1, 60_000, n),
    "tiny": lambda rng, n: rng.uniform(1e-30, 3e-30, n),
    "huge": lambda rng, n: rng.uniform(1e30, 3e30, n),
}


def overlap(index, documents, queries, k=10):
    """Share of the k best by float scores among the k best of the index; ties count."""
    dense = np.zeros((len(documents), TERMS))
    for i, (terms, weights) in enumerate(documents):
        dense[i, terms] = weights
    asked = queries.quantize_queries(index.manifest.max_impact)
    result = index.search(asked, k)
    np.testing.assert_array_equal(result.ordinals, index.oracle(asked, k).ordinals)
    shares = []
    for i, (terms, weights) in enumerate(queries):
        exact = dense[:, terms] @ weights.astype(np.float64)
        tenth = np.sort(exact)[-k]
        shares.append(np.mean(exact[result.row(i)[1]] >= tenth * (1 - 1e-9)))
    return np.mean(shares)


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_top_ten_agree_with_float32(name, tmp_path):
    documents = collection(WEIGHTS[name])
    queries = collection(WEIGHTS[name], documents=100, terms=6, seed=8)
    with IndexBuilder.create(tmp_path / "index", BuildOptions(TERMS)) as builder:
        for first in range(0, 2000, 500):
            part = np.arange(first, first + 500)
            builder.add([Document(str(i), "") for i in part], documents.take(part))
        manifest = builder.finish()
    assert manifest.fidelity.enough
    assert manifest.fidelity.two_bytes < 0.6
    with Index.open(tmp_path / "index", threads=1) as index:
        assert overlap(index, documents, queries) >= 0.99


def test_a_coarse_scale_is_measured_as_such(tmp_path):
    documents = collection(WEIGHTS["bge-m3"], documents=500)
    coarse, fine = measure(documents, 0.02), measure(documents, choose_scale(documents))
    assert coarse.overlap < 0.8
    assert not coarse.enough
    assert (coarse.rounded_up, coarse.impacts) == (pytest.approx(0.13, abs=0.01), 2)
    assert fine.enough
    assert fine.rounded_up == 0
    with IndexBuilder.create(
        tmp_path / "index", BuildOptions(TERMS, document_scale=0.02)
    ) as builder:
        builder.add([Document(str(i), "") for i in range(500)], documents)
        assert builder.finish().fidelity == coarse


def test_one_byte_must_do_where_term_ids_leave_no_room():
    documents = collection(WEIGHTS["splade"], documents=500)
    scale = choose_scale(documents, 255)
    assert scale >= np.quantile(documents.weights, 0.98) / 255
    assert measure(documents, scale, 255).two_bytes == 0


@pytest.mark.parametrize("rows", [[], [([], [])], [([3], [0.5])], [([3], [0.5])] * 3])
def test_samples_that_show_nothing_are_perfect(rows):
    sample = SparseBatch.from_rows(rows)
    fidelity = measure(sample, choose_scale(sample))
    assert (fidelity.overlap, fidelity.top_1, fidelity.documents) == (1.0, 1.0, len(rows))


def test_the_sample_is_spread_over_all_additions_and_survives_a_resume(tmp_path, monkeypatch):
    monkeypatch.setattr("csplade.index.write.build.SAMPLE_DOCUMENTS", 16)
    documents = SparseBatch.from_rows([([i % TERMS], [1.0 + i / 100]) for i in range(100)])
    builder = IndexBuilder.create(tmp_path / "index", BuildOptions(TERMS, shards=2))
    for first in range(0, 100, 9):
        part = np.arange(first, min(first + 9, 100))
        builder.add([Document(str(i), "") for i in part], documents.take(part))
        builder.close()
        builder = IndexBuilder.resume(tmp_path / "index")
    kept = builder._stores[0].sample()
    builder.close()
    assert [terms.tolist() for terms, _ in kept] == [[i] for i in range(0, 100, 8)]
    assert [weights.tolist() for _, weights in kept] == [
        [np.float32(1.0 + i / 100)] for i in range(0, 100, 8)
    ]
