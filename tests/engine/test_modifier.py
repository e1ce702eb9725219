"""The query modifier: what it does to a query, that parts of an index leave it to who asks them."""

import dataclasses
from functools import reduce
from operator import add

import numpy as np
import pytest

from csplade.core.vectors import SparseBatch
from csplade.engine.backend import CollectionInfo
from csplade.engine.collection import Collection
from csplade.index import Index
from csplade.ingest.build import build_from_vectors

ROWS = [{"common": 2.0, f"rare-{i}": 1.0} for i in range(9)] + [{"common": 1.0, "rare-0": 1.0}]
SHARDS = 2


@pytest.fixture
def index_with(tmp_path):
    def build(modifier):
        lines = [
            f'{{"id": "d{i}", "contents": "", "vector": {row}}}'.replace("'", '"')
            for i, row in enumerate(ROWS)
        ]
        corpus = tmp_path / "vectors.jsonl"
        corpus.write_text("\n".join(lines) + "\n")
        out = tmp_path / modifier
        build_from_vectors(corpus, out, shards=SHARDS, query_modifier=modifier)
        return out

    return build


def query_of(info: CollectionInfo, **weights: float) -> SparseBatch:
    named = sorted((info.terms_by_token[token], weight) for token, weight in weights.items())
    return SparseBatch.from_rows([tuple(zip(*named, strict=True))])


def scores(collection, query):
    (answer,) = collection.search(query, 10, with_document=False)
    return {hit.id: hit.integer_score for hit in answer.hits}


def test_rare_terms_of_the_collection_gain(index_with):
    asked = {"common": 1.0, "rare-3": 1.0}
    with Collection.open(index_with("none")) as plain, Collection.open(index_with("idf")) as idf:
        assert plain.info.statistics is None
        assert idf.info.index.query_modifier == "idf"
        before, after = (scores(one, query_of(one.info, **asked)) for one in (plain, idf))
        assert before["d3"] < 2 * before["d2"]
        assert after["d3"] > 2 * after["d2"]
        factors = idf.index.statistics.factors
        weighed = query_of(
            idf.info,
            **{t: w * float(factors[idf.info.terms_by_token[t]]) for t, w in asked.items()},
        )
        assert after == scores(plain, weighed)


def test_parts_of_an_index_rank_weights_as_they_come(index_with):
    path = index_with("idf")
    parts = [Collection(Index.open(path, threads=1, shards=[i])) for i in range(SHARDS)]
    with Collection.open(path) as whole:
        query = query_of(whole.info, **{"common": 1.0, "rare-0": 0.5})
        summed = dataclasses.replace(
            whole.info, statistics=reduce(add, (part.info.statistics for part in parts))
        )
        modified = summed.modify(query)
        assert not np.array_equal(modified.weights, query.weights)
        merged = {k: v for part in parts for k, v in scores(part, modified).items()}
        assert merged == scores(whole, query)
    for part in parts:
        part.close()
