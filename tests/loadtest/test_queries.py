"""Requests from query files: forms, mixes, and terms that the target may not have."""

import json
from types import SimpleNamespace

import pytest

from csplade.core.errors import InputError
from csplade.loadtest.queries import Queries, prepare, read_mix, read_queries, read_requests
from csplade.v1 import retrieval_pb2 as pb


def fake(*, model=True, vocabulary=100, strings=False, vectors=()):
    """A target that says this of itself, and encodes every text as the next of these vectors."""
    info = pb.InfoResponse(limits=pb.Limits(encode_texts=2))
    info.index.vocabulary_size, info.index.string_terms = vocabulary, strings
    if model:
        info.model.name = "m"
    left = list(vectors)

    def call(method, request):
        assert method == "Encode"
        assert len(request.texts) <= 2
        found = [left.pop(0) for _ in request.texts]
        encodings = [pb.Encoding(vector=pb.SparseVector(indices=i, values=v)) for i, v in found]
        return pb.EncodeResponse(encodings=encodings)

    return SimpleNamespace(address="h:1", info=info, call=call)


def prepared(path, queries, mix, target, **options):
    told = prepare(queries, read_mix(mix), target, k=5, seed=7, path=path / "r.json", **options)
    return told, json.loads((path / "r.json").read_text())


def test_the_mix_is_kept_and_every_query_comes_up(tmp_path):
    texts = tuple(f"text {i}" for i in range(300))
    told, requests = prepared(tmp_path, Queries("q", texts, ()), "text=3,encode=1", fake())
    kinds = [one["kind"] for one in requests]
    assert 0.70 < kinds.count("text") / len(kinds) < 0.80
    assert {one["message"]["query"]["text"] for one in requests if one["kind"] == "text"} == set(
        texts
    )
    assert told == "q: 300 texts of 2.0 words"
    assert {one["method"] for one in requests if one["kind"] == "encode"} == {"Encode"}
    assert prepared(tmp_path, Queries("q", texts, ()), "text=3,encode=1", fake())[1] == requests


def test_string_terms_go_as_tokens_or_by_rank_of_frequency(tmp_path):
    queries = Queries("q", (), ({"b": 1.0, "a": 2.0}, {"a": 0.5}, {"c": 1.0, "a": 1.0}))
    _, requests = prepared(tmp_path, queries, "vector=1", fake(strings=True))
    assert {"tokens": ["b", "a"], "values": [1.0, 2.0]} in [
        one["message"]["query"]["vector"] for one in requests
    ]
    told, requests = prepared(tmp_path, queries, "vector=1", fake(vocabulary=2))
    vectors = [one["message"]["query"]["vector"] for one in requests]
    assert {"indices": [1, 0], "values": [1.0, 2.0]} in vectors
    assert {
        "indices": [0],
        "values": [1.0],
    } in vectors  # the least frequent term is beyond the vocabulary
    assert "rank of frequency" in told


def test_vectors_that_a_file_lacks_come_from_the_target(tmp_path):
    target = fake(vectors=[([1, 5], [0.5, 1.5]), ([2], [1.0]), ([], [])])
    told, requests = prepared(
        tmp_path, Queries("q", ("one", "two", "three"), ()), "vector=1", target
    )
    assert sorted(one["message"]["query"]["vector"]["indices"] for one in requests) == [[1, 5], [2]]
    assert "2 vectors of 1.5 terms (encoded by the target)" in told
    (first, second) = read_requests(tmp_path / "r.json")
    assert {first.k, second.k} == {5}
    assert first.query.WhichOneof("kind") == "vector"


@pytest.mark.parametrize(
    ("queries", "mix", "target", "complaint"),
    [
        (Queries("q", ("a",), ()), "text=1", fake(model=False), "no encoder"),
        (Queries("q", (), ({"1": 1.0},)), "text=1", fake(), "vectors only"),
        (
            Queries("q", ("a",), ()),
            "vector=1",
            fake(model=False),
            "no encoder, and the file no vectors",
        ),
        (
            Queries("q", (), ({"500": 1.0},)),
            "vector=1",
            fake(),
            "at least 100, the target's vocabulary_size",
        ),
    ],
)
def test_what_cannot_be_asked_is_told_before_the_load(tmp_path, queries, mix, target, complaint):
    with pytest.raises(InputError, match=complaint):
        prepared(tmp_path, queries, mix, target)


def test_files_have_text_contents_or_vectors(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"text": "a"}\n{"contents": "b", "vector": {"x": 1}}\n{"vector": {"y": 2}}\n{"text": '
        '"a"}\n'
    )
    assert read_queries(path) == Queries("q.jsonl", ("a", "b"), ({"x": 1}, {"y": 2}))
    path.write_text('{"text": "a"}\n{"query": "a"}\n')
    with pytest.raises(InputError, match=r"q\.jsonl:2: needs 'text'"):
        read_queries(path)
    path.write_text("")
    with pytest.raises(InputError, match="no queries"):
        read_queries(path)


@pytest.mark.parametrize(
    "mix", ["", "text", "text=-1", "text=0", "texts=1", "text=inf", "text=nan"]
)
def test_a_wrong_mix_is_rejected(mix):
    with pytest.raises(InputError, match="mix: "):
        read_mix(mix)
