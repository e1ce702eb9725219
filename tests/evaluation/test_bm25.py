import pytest

from csplade.core.beir import load_dataset
from csplade.evaluation import bm25
from csplade.evaluation.measures import measure

pytest.importorskip("bm25s")


def test_ranks_what_matches(beir_folder):
    dataset = load_dataset(beir_folder())
    result = bm25.rank(dataset)
    assert result.rankings == {"q1": ["d1"], "q2": ["d3", "d1"]}


def test_published_figures(real_collections):
    dataset = load_dataset(real_collections / "scifact")
    figures = measure(dataset.qrels, bm25.rank(dataset).rankings)
    assert (round(figures["nDCG@10"], 4), round(figures["Recall@100"], 4)) == (0.6762, 0.9127)
