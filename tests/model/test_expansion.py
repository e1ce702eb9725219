"""Queries by the network, by the table, or by both: what each holds, and where each is allowed."""

import dataclasses

import numpy as np
import pytest

from csplade.core.errors import InputError
from csplade.core.vectors import SparseBatch
from csplade.model import Encoder, Manifest

TEXTS = ["the river reaches the sea", "", "a hash table"]


def dense(vectors: SparseBatch, size: int) -> np.ndarray:
    rows = np.zeros((len(vectors), size), dtype=np.float32)
    for row, (terms, weights) in zip(rows, vectors, strict=True):
        row[terms] = weights
    return rows


@pytest.fixture
def model(tiny_model_of):
    return tiny_model_of(
        query_encoder="lexical",
        query_expansion=0.5,
        lexical_prior=2.0,
        query_max_terms=1024,
        document_max_terms=1024,
    )


def test_both_is_the_table_and_a_part_of_the_network(model):
    size = Manifest.load(model).vocabulary_size
    table, network, both = (
        dense(Encoder.from_pretrained(model, query_encoder=name).encode_query(TEXTS), size)
        for name in ("lexical", "model", "both")
    )
    assert (network > 0).sum() > (table > 0).sum() > 0
    np.testing.assert_allclose(both, table + 0.5 * network, rtol=1e-5)


def test_the_network_gives_queries_no_lexical_prior(model):
    manifest = dataclasses.replace(Manifest.load(model), golden=(), lexical_prior=0.0)
    queries = Encoder.from_pretrained(model, query_encoder="model").encode_query(TEXTS)
    manifest.save(model)
    documents = Encoder.from_pretrained(model).encode_document(TEXTS)
    assert np.array_equal(queries.terms, documents.terms)
    np.testing.assert_allclose(queries.weights, documents.weights, rtol=1e-5)


def test_the_table_is_the_default_and_needs_no_network(model, monkeypatch):
    encoder = Encoder.from_pretrained(model)
    monkeypatch.setattr(Encoder, "network", None)
    assert encoder.query_encoder == "lexical"
    assert encoder.looks_up("query")
    assert len(encoder.encode_query(TEXTS).terms)


@pytest.mark.parametrize(
    ("manifest", "asked", "allowed"),
    [
        ({}, "both", "auto, model"),
        ({"query_encoder": "lexical"}, "model", "auto, lexical"),
        ({"query_encoder": "lexical", "query_expansion": 1.0}, "bm25", "lexical, model, both"),
    ],
)
def test_what_a_model_was_not_made_for_is_an_error(tiny_model_of, manifest, asked, allowed):
    with pytest.raises(InputError, match=f"query_encoder: '{asked}' .* allowed .*{allowed}"):
        Encoder.from_pretrained(tiny_model_of(**manifest), query_encoder=asked)


@pytest.mark.parametrize(
    "values",
    [
        {"query_expansion": 0.5},
        {"query_encoder": "lexical", "query_expansion": 0.5, "normalize": True},
        {"query_encoder": "lexical", "query_expansion": -0.5},
    ],
)
def test_a_manifest_that_contradicts_itself_is_an_error(values):
    with pytest.raises(InputError, match="manifest query_expansion is"):
        Manifest(**values)
