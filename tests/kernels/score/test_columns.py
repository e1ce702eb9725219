"""The CPU scorer with dense columns, against sums over the plain matrix."""

import numpy as np
import pytest

from csplade.core.ranking_key import LAST_ARRIVAL, best_keys
from csplade.kernels.score.columns import Columns
from csplade.kernels.score.cpu import COLUMNS_AT_ONCE, TILE, Workspace, score_segments

from ..collection import Collection

CASES = {
    "every term is frequent": {"vocabulary": 9, "document_terms": 6, "query_terms": 7},
    "frequent and rare terms": {"vocabulary": 60, "document_terms": 26, "query_terms": 50},
    "one column": {"vocabulary": 1, "document_terms": 1, "query_terms": 1},
    "as many as are added at once": {
        "vocabulary": COLUMNS_AT_ONCE,
        "document_terms": COLUMNS_AT_ONCE - 1,
        "query_terms": COLUMNS_AT_ONCE,
    },
}


def matrix(batch, names):
    dense = np.zeros((len(batch), len(names)), np.int64)
    for row, (terms, impacts) in zip(dense, batch, strict=True):
        row[np.searchsorted(names, terms)] = impacts
    return dense


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("block_size", [TILE, TILE + 1, 3000])
@pytest.mark.parametrize("case", CASES)
def test_scores_are_sums_over_the_matrix(case, block_size, masked):
    collection = Collection(documents=2 * block_size + 77, block_size=block_size, **CASES[case])
    segment = collection.segment()
    assert len(segment.columns.impacts)
    documents = matrix(collection.documents, collection.names)
    queries = matrix(collection.queries, collection.names)
    mask = np.zeros(0, np.uint8)
    if masked:
        mask = (np.random.default_rng(2).random(len(documents)) < 0.5).astype(np.uint8)
    workspace = Workspace()
    parts = [(segment, 0, 0, len(segment), mask)]
    for row, (terms, impacts) in zip(queries, collection.queries, strict=True):
        scores = documents @ row
        if masked:
            scores *= mask
        for k in (5, 4000):
            keys, matched, postings = score_segments(
                parts, block_size, 0, 1, terms, impacts, k, workspace
            )
            keys = best_keys(keys, k)
            best = np.lexsort((np.arange(len(scores)), -scores))[:k]
            best = best[scores[best] > 0]
            assert np.array_equal(LAST_ARRIVAL - (keys & LAST_ARRIVAL), best)
            assert np.array_equal(keys >> 32, scores[best])
            assert matched == (scores > 0).sum()
            assert postings == (documents[:, row > 0] > 0).sum()
    assert not workspace.sums.any()


def test_some_terms_of_a_case_have_columns_and_others_postings():
    case = CASES["frequent and rare terms"]
    places = Collection(documents=2000, block_size=TILE, **case).segment().columns.places
    assert (places < 0).any()
    assert (places >= 0).any()


def test_small_blocks_and_rare_terms_have_no_columns():
    small = Collection(documents=TILE - 1, block_size=TILE, vocabulary=3, document_terms=2)
    assert (Columns.of(small.segment()).places == -1).all()
    rare = Collection(documents=TILE, block_size=TILE, vocabulary=900, document_terms=3)
    assert not len(Columns.of(rare.segment()).impacts)


def test_a_column_holds_the_impacts_of_its_row():
    segment = Collection(documents=1500, block_size=1500, vocabulary=5, document_terms=3).segment()
    places, columns = segment.columns.places, segment.columns.impacts
    assert (places >= 0).all()
    for row, place in enumerate(places):
        span = slice(segment.indptr[row], segment.indptr[row + 1])
        expected = np.zeros(columns.shape[1], np.uint8)
        expected[segment.locals[span]] = segment.impacts[span]
        assert np.array_equal(columns[place], expected)
