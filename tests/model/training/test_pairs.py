"""Batches of retrieval training: what is asked, which passages come, who is whose negative, what
teachers say.
"""

import numpy as np
import pytest

from csplade.model.training.data import Collection
from csplade.model.training.mine import Mined
from csplade.model.training.pairs import Batches, Source


@pytest.fixture
def source():
    passages = {f"d{i}": f"passage {i}" for i in range(6)}
    queries = {f"q{i}": f"query {i}" for i in range(4)}
    judged = {"q0": ["d0", "d1"], "q1": ["d1"], "q2": ["d2"], "q3": ["d0"]}
    proposed = {"q0": ["d2", "d3"], "q1": ["d0"], "q2": ["d5"], "q3": ["d4"]}
    mined = [
        Mined(
            query,
            judged[query],
            proposed[query],
            {
                "t": np.array(
                    [float(p[1]) + 0.5 for p in judged[query] + proposed[query]], dtype=np.float32
                )
            },
        )
        for query in queries
    ]
    return Source(Collection("c", passages, queries, judged), mined, 1.0)


def batch_of(source, drawn, **options):
    batches = Batches([source], len(drawn), 2, ["t"], 0, **options)
    return batches._batch([(0, source.mined[i]) for i in drawn], np.random.default_rng(1))


def test_a_passage_comes_once_and_scores_are_those_of_its_query(source):
    batch = batch_of(source, [0, 1])
    assert len(set(batch["passages"])) == len(batch["passages"])
    assert batch["queries"] == ["query 0", "query 1"]
    for row, query in enumerate((0, 1)):
        for column, passage in enumerate(batch["passages"]):
            candidate = f"d{passage[-1]}" in source.mined[query].candidates
            assert batch["listed"][row, column] == candidate
            assert batch["teacher"][0, row, column] == (
                float(passage[-1]) + 0.5 if candidate else 0.0
            )


def test_a_judged_passage_is_ignored_unless_it_is_the_one_asked_for(source):
    batch = batch_of(source, [0, 1])
    for row, query in enumerate((0, 1)):
        own = int(batch["positives"][row])
        good = source.mined[query].positives
        assert f"d{batch['passages'][own][-1]}" in good
        for column, passage in enumerate(batch["passages"]):
            assert batch["ignored"][row, column] == (f"d{passage[-1]}" in good and column != own)


def test_every_query_whose_passage_is_there_is_asked_once(source):
    assert batch_of(source, [1])["queries"] == ["query 1"]
    batch = batch_of(source, [1], every_query=True)
    assert sorted(batch["queries"]) == ["query 0", "query 1", "query 3"]
    for query, column in zip(batch["queries"], batch["positives"], strict=True):
        assert f"d{batch['passages'][column][-1]}" in source.mined[int(query[-1])].positives
    assert batch["ignored"].shape == batch["listed"].shape == batch["teacher"].shape[1:]
