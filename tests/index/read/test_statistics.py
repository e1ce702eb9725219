"""Document frequencies are exact, also of parts of an index and with deleted documents."""

from functools import reduce
from operator import add

import numpy as np
import pytest

from csplade.core.errors import InputError
from csplade.core.vectors import SparseBatch
from csplade.index import Index, TermStatistics

from ..helpers import VOCABULARY, delete, make_index, random_vectors


def counted(index):
    """Frequencies by the stored vectors, one document after the other."""
    documents, frequencies = 0, np.zeros(VOCABULARY, dtype=np.int64)
    for shard in index.shards.values():
        deleted = shard.store.deleted()
        for ordinal in range(shard.store.count()):
            if ordinal not in deleted:
                documents += 1
                frequencies[shard.store.vectors([ordinal]).terms] += 1
    return documents, frequencies


@pytest.mark.parametrize("deleted", [(), (0, 7, 31, 32, 70, 99)])
def test_frequencies_are_those_of_the_live_documents(tmp_path, deleted):
    path = make_index(tmp_path / "index", random_vectors(np.random.default_rng(3), 300), shards=3)
    for shard in range(3 if deleted else 0):
        delete(path, shard, deleted)
    with Index.open(path, threads=1) as index:
        found = index.statistics
        documents, frequencies = counted(index)
        assert found.documents == documents == 300 - 3 * len(deleted)
        assert found.frequencies.tolist() == frequencies.tolist()
    parts = []
    for shard in range(3):
        with Index.open(path, threads=1, shards=[shard]) as index:
            parts.append(index.statistics)
    assert reduce(add, parts).frequencies.tolist() == frequencies.tolist()
    assert reduce(add, parts).documents == documents


def test_the_factor_falls_from_1_and_stays_above_0():
    factors = TermStatistics(1000, np.array([0, 1, 10, 500, 1000])).factors
    assert factors.dtype == np.float32
    assert factors[0] == 1.0
    assert (np.diff(factors) < 0).all()
    assert factors[-1] > 0
    idf = np.log1p((1000 - 10 + 0.5) / 10.5), np.log1p(1000.5 / 0.5)
    assert factors[2] == pytest.approx(np.sqrt(idf[0] / idf[1]), rel=1e-6)


def test_weights_keep_their_terms():
    statistics = TermStatistics(4, np.array([0, 4, 2]))
    queries = SparseBatch.from_rows([([0, 1], [2.0, 2.0]), ([2], [1.0]), ([], [])])
    weighed = statistics.weigh(queries)
    assert weighed.terms.tolist() == [0, 1, 2]
    assert weighed.indptr.tolist() == [0, 2, 3, 3]
    assert weighed.weights.tolist() == (queries.weights * statistics.factors[[0, 1, 2]]).tolist()


def test_an_unknown_modifier_is_an_error(tmp_path):
    with pytest.raises(InputError, match="query_modifier: 'bm25'; allowed none and idf"):
        make_index(tmp_path / "index", random_vectors(np.random.default_rng(0), 3),
                   query_modifier="bm25")  # fmt: skip
