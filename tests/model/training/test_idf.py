"""Queries weighed by IDF over a corpus."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from csplade.core.errors import IncompatibleError, InputError
from csplade.core.vectors import SparseBatch
from csplade.model import Encoder, Manifest
from csplade.model.training.idf import train_idf


def test_idf_of_a_corpus(tiny_model, tmp_path):
    out = tmp_path / "idf"
    texts = ["the river", "the sea the sea", "The glacier", ""]
    counted = []
    train_idf(tiny_model, out, texts, progress=counted.append)
    assert counted == [4]
    encoder = Encoder.from_pretrained(out)
    tokens = [encoder.tokenize([text], "query").ids[0] for text in texts]
    weights = load_file(out / "query_weights.safetensors")["weight"]
    for term in {int(term) for ids in tokens for term in ids}:
        found = sum(term in ids for ids in tokens)
        assert weights[term] == pytest.approx(np.log(1 + (4 - found + 0.5) / (found + 0.5)))
    special = encoder._tokenizer.special_ids()
    assert special
    assert (weights[special] == 0).all()
    assert weights.min() >= 0
    assert weights.max() == pytest.approx(np.log(1 + 4.5 / 0.5))
    assert isinstance(encoder.encode_query(["glacier"]), SparseBatch)
    assert encoder.fingerprint != Encoder.from_pretrained(tiny_model).fingerprint
    assert not train_idf(tiny_model, out, texts)
    with pytest.raises(IncompatibleError, match="was made with counts False, now it is True"):
        train_idf(tiny_model, out, texts, counts=True)
    with pytest.raises(IncompatibleError, match="was made with texts"):
        train_idf(tiny_model, out, texts[:2])


def test_what_the_model_is_made_for_is_written_down(tiny_model, tmp_path):
    out = tmp_path / "idf"
    train_idf(tiny_model, out, ["the sea"], expansion=0.5, collection_idf=True)
    manifest = Manifest.load(out)
    assert manifest.query_encoders == ("lexical", "model", "both")
    assert manifest.query_idf
    assert Manifest.load(tiny_model).query_encoders == ("model",)


def test_another_corpus_is_another_fingerprint(tiny_model, tmp_path):
    assert train_idf(tiny_model, tmp_path / "one", ["the river"])
    assert train_idf(tiny_model, tmp_path / "other", ["the sea"])
    one, other = (Manifest.load(tmp_path / name) for name in ("one", "other"))
    assert one.fingerprint != other.fingerprint
    assert len(one.golden) == 3


def test_a_failure_leaves_nothing(tiny_model, tmp_path):
    def texts():
        yield "river"
        raise InputError("line 2: broken")

    with pytest.raises(InputError, match="line 2"):
        train_idf(tiny_model, tmp_path / "out", texts())
    with pytest.raises(InputError, match="no texts"):
        train_idf(tiny_model, tmp_path / "out", [])
    assert list(tmp_path.iterdir()) == []
