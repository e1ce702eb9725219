import json

import numpy as np
import pytest

from csplade.core.errors import InputError
from csplade.index import Index, IndexManifest
from csplade.ingest import build as indexing
from csplade.ingest.build import build_from_corpus, build_from_vectors


@pytest.fixture
def written(tmp_path):
    def write(name: str, lines: list[dict]) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


def test_title_and_text_are_encoded_together(written, tmp_path, tiny_model):
    from csplade.model import Encoder

    encoder = Encoder.from_pretrained(tiny_model)
    corpus = written(
        "c.jsonl",
        [{"_id": "a", "title": "Tea", "text": "hot"}, {"_id": "b", "title": "Tea", "text": ""}],
    )
    build_from_corpus(corpus, tmp_path / "index", encoder)
    with Index.open(tmp_path / "index") as index:
        stored = index.vectors([0, 0], [0, 1])
        expected, _ = encoder.encode_document(["Tea hot", "Tea"]).quantize(index.manifest.step)
    assert stored.terms.tolist() == expected.terms.tolist()
    assert stored.impacts.tolist() == expected.impacts.tolist()


def test_the_model_is_not_loaded_for_a_bad_corpus(written, tmp_path):
    def load():
        raise AssertionError("loaded")

    with pytest.raises(InputError, match="no documents"):
        build_from_corpus(written("c.jsonl", []), tmp_path / "index", load)


def test_progress_counts_every_document_once(written, tmp_path, tiny_model, monkeypatch):
    from csplade.model import Encoder

    monkeypatch.setattr(indexing.chunks, "TEXTS", 4)
    corpus = written("c.jsonl", [{"_id": str(i), "text": "tea " * (i % 3)} for i in range(10)])
    told = []
    report = build_from_corpus(
        corpus,
        tmp_path / "index",
        Encoder.from_pretrained(tiny_model),
        progress=lambda *state: told.append(state),
    )
    documents = [done for stage, done, _ in told if stage == "documents"]
    assert documents[0] == 0
    assert documents == sorted(documents)
    assert documents[-1] == 10
    assert told[-1] == ("segments", 10, 10)
    assert (report.empty, report.manifest.documents) == (4, 10)


def test_terms_outside_the_models_vocabulary(written, tmp_path, tiny_model):
    from csplade.model import Encoder

    encoder = Encoder.from_pretrained(tiny_model)
    good = {"id": "a", "vector": {encoder.token(5): 1.0}}
    bad = written("v.jsonl", [good, {"id": "b", "vector": {"no token": 1.0}}])
    with pytest.raises(InputError, match=r"v\.jsonl:2: term 'no token' is not in the vocabulary"):
        build_from_vectors(bad, tmp_path / "index", encoder=encoder)
    high = written("w.jsonl", [{"id": "a", "vector": {str(encoder.vocabulary_size): 1.0}}])
    with pytest.raises(InputError, match=r"w\.jsonl:1: term .* is not in the vocabulary"):
        build_from_vectors(high, tmp_path / "index", encoder=encoder)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("asked", "made_for", "expected"),
    [("auto", True, "idf"), ("auto", False, "none"), ("idf", False, "idf"), ("none", True, "none")],
)
def test_the_modifier_is_the_encoders_unless_one_is_asked_for(
    written, tmp_path, tiny_model_of, asked, made_for, expected
):
    from csplade.model import Encoder

    encoder = Encoder.from_pretrained(tiny_model_of(query_idf=made_for))
    corpus = written("c.jsonl", [{"_id": "a", "text": "tea"}])
    report = build_from_corpus(corpus, tmp_path / "index", encoder, query_modifier=asked)
    assert report.manifest.query_modifier == expected
    assert IndexManifest.open(tmp_path / "index").query_modifier == expected


@pytest.mark.parametrize(
    ("weights", "scale", "impacts"),
    [
        ([40, 200], 1.0, [40, 200]),
        ([1000, 1001], 1.0, [1000, 1001]),
        ([1, 65_280], 1.0, [1, 65_280]),
        ([0.0041, 0.0095], None, None),
        ([0.5 + i / 100 for i in range(200)] + [400.0], None, None),
    ],
)
def test_the_scale_fits_the_weights_of_a_file(written, tmp_path, weights, scale, impacts):
    path = written("v.jsonl", [{"id": str(i), "vector": {"3": w}} for i, w in enumerate(weights)])
    manifest = build_from_vectors(path, tmp_path / "index").manifest
    if scale is not None:
        assert manifest.document_scale == scale
    with Index.open(tmp_path / "index") as index:
        stored = index.vectors([0] * len(weights), range(len(weights)))
    if impacts is not None:
        assert stored.impacts.tolist() == impacts
    np.testing.assert_allclose(stored.impacts * stored.scales, weights, rtol=0.01)


def test_a_resumed_build_encodes_no_text_twice(written, tmp_path, tiny_model, monkeypatch):
    from csplade.index import IndexBuilder
    from csplade.model import Encoder

    monkeypatch.setattr(indexing.chunks, "TEXTS", 4)
    corpus = written("c.jsonl", [{"_id": str(i), "text": f"tea {i}"} for i in range(12)])
    encoder, add, calls = Encoder.from_pretrained(tiny_model), IndexBuilder.add, []

    def stop(self, documents, vectors):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(documents))
        add(self, documents, vectors)

    monkeypatch.setattr(IndexBuilder, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        build_from_corpus(corpus, tmp_path / "index", encoder)
    monkeypatch.setattr(IndexBuilder, "add", add)
    encode, texts = encoder.encode, []

    def count(batch, *arguments, **options):
        texts.extend(batch)
        return encode(batch, *arguments, **options)

    monkeypatch.setattr(encoder, "encode", count)
    report = build_from_corpus(corpus, tmp_path / "index", encoder, resume=True)
    assert (report.resumed, texts) == (8, ["tea 8", "tea 9", "tea 10", "tea 11"])
