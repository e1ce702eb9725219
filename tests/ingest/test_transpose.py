import numpy as np
import pytest

from csplade.core.vectors import offsets
from csplade.ingest import transpose
from csplade.ingest.transpose import Transposition, balanced_parts, even_parts


@pytest.fixture
def small(monkeypatch):
    """Parts and spools so small that every path is taken."""
    monkeypatch.setattr(transpose, "PARTS", 7)
    monkeypatch.setattr(transpose, "PART_COLUMNS", 3)
    monkeypatch.setattr(transpose, "PART_POSTINGS", 40)
    monkeypatch.setattr(transpose, "SPOOL_BYTES", 50)


def test_columns_are_those_of_the_dense_matrix(small):
    random = np.random.default_rng(5)
    dense = random.integers(1, 100, (60, 41)) * (random.random((60, 41)) < 0.3)
    dense[:, 11] = np.arange(1, 61)  # one column alone is larger than a part
    for bounds in (even_parts(41), balanced_parts((dense > 0).sum(axis=0))):
        assert 2 <= len(bounds) <= 9
        with Transposition(bounds) as turned:
            for first in range(0, 60, 8):
                rows, columns = np.nonzero(dense[first : first + 8])
                values = dense[first : first + 8][rows, columns].astype(np.int32)
                turned.add(columns, rows + first, values)
            found = list(turned.columns())
        assert len(found) == 41
        for column, (rows, values) in zip(dense.T, found, strict=True):
            assert rows.tolist() == np.flatnonzero(column).tolist()
            assert values.tolist() == column[column > 0].tolist()


def test_one_row_at_a_time(small):
    with Transposition(even_parts(5)) as turned:
        turned.add(np.array([4, 0]), 7, np.array([1, 2], dtype=np.int32))
        turned.add(np.array([], dtype=np.int64), 8, np.array([], dtype=np.int32))
        columns = [(rows.tolist(), values.tolist()) for rows, values in turned.columns()]
    assert columns == [([7], [2]), ([], []), ([], []), ([], []), ([7], [1])]


def test_no_columns():
    for bounds in (even_parts(0), balanced_parts(np.array([], dtype=np.int64))):
        with Transposition(bounds) as turned:
            assert list(turned.columns()) == []


def test_parts_are_balanced_and_bounded(small):
    lengths = np.full(1000, 3)
    ends = offsets(lengths)
    sums = np.diff(ends[balanced_parts(lengths)])
    assert len(sums) <= 8
    assert sums.max() <= -(-3000 // 7) + 3
    assert np.diff(even_parts(1000)).max() == -(-1000 // 7)
