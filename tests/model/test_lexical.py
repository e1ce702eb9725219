"""Queries that cost no model: what they hold, the table, and that no network runs."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from csplade.core.errors import CorruptError
from csplade.model import Encoder, Manifest
from csplade.model.lexical import QueryTable
from csplade.model.tokens import Tokens


def table(weights, cap=10, folded=None, counts=False):
    weights = np.array(weights, dtype=np.float32)
    folded = np.arange(len(weights)) if folded is None else np.array(folded)
    return QueryTable(weights, folded, cap, counts=counts)


def look_up(made, *texts):
    ids = [np.array(text, dtype=np.int32) for text in texts]
    return made.look_up(Tokens(ids, np.zeros(len(ids), dtype=np.int64)))


def test_a_token_counts_once_and_a_weight_of_zero_not_at_all():
    vectors, positive = look_up(table([0.0, 2.0, 0.5, 1.0]), [3, 1, 3, 0, 3], [], [0])
    assert vectors.indptr.tolist() == [0, 2, 2, 2]
    assert vectors.terms.tolist() == [1, 3]
    assert vectors.weights.tolist() == [2.0, 1.0]
    assert positive.tolist() == [2, 0, 0]


def test_with_counts_a_repeated_term_weighs_more_also_at_the_cap():
    vectors, positive = look_up(table([1.0, 2.0, 1.5], cap=2, counts=True), [0, 0, 0, 1, 2])
    assert vectors.terms.tolist() == [0, 1]
    assert vectors.weights.tolist() == [3.0, 2.0]
    assert positive.tolist() == [3]


def test_the_cap_keeps_the_largest_and_of_equals_the_smaller_id():
    vectors, positive = look_up(table([1.0, 2.0, 1.0, 3.0], cap=3), [0, 1, 2, 3])
    assert vectors.terms.tolist() == [0, 1, 3]
    assert positive.tolist() == [4]


def test_folded_tokens_are_one_term():
    vectors, _ = look_up(table([1.0, 2.0, 4.0], folded=[1, 1, 2]), [0, 1, 2])
    assert vectors.terms.tolist() == [1, 2]


@pytest.fixture
def lexical_model(tiny_model_of):
    return tiny_model_of(query_encoder="lexical", add_special_tokens=True)


def test_queries_do_not_run_the_network(lexical_model, monkeypatch):
    encoder = Encoder.from_pretrained(lexical_model)
    assert encoder.manifest.golden[0].weights == (1.0,) * len(encoder.manifest.golden[0].terms)
    monkeypatch.setattr(Encoder, "network", None)
    encoded = encoder.encode(["The river, the sea: the RIVER", "", "sea"], "query")
    (words,) = encoder._tokenizer.ids(["the river, the sea: the river"])
    assert encoded.vectors.row(0)[0].tolist() == sorted(set(words))
    assert (encoded.vectors.weights == 1.0).all()
    assert len(encoded.vectors.row(1)[0]) == 0
    assert encoded.timings["encode"] == 0 < encoded.timings["sparsify"]
    assert encoded.tokens.tolist() == [len(words), 0, len(encoder._tokenizer.ids(["sea"])[0])]
    with pytest.raises(AttributeError):
        encoder.encode_document(["sea"])


def test_documents_are_the_models(lexical_model, tiny_model_of):
    plain = tiny_model_of(add_special_tokens=True)
    ours, theirs = (
        Encoder.from_pretrained(path, dtype=torch.float32).encode_document(
            ["rain falls on the mountains"]
        )
        for path in (lexical_model, plain)
    )
    assert ours.terms.tolist() == theirs.terms.tolist()
    np.testing.assert_array_equal(ours.weights, theirs.weights)


def test_what_the_caps_cut_is_counted(tiny_model_of):
    encoder = Encoder.from_pretrained(
        tiny_model_of(query_encoder="lexical", query_max_tokens=6, query_max_terms=2)
    )
    encoded = encoder.encode(["a b c d e f g h"], "query")
    assert encoded.tokens.tolist() == [6]
    assert encoded.dropped_tokens.tolist() == [
        len(encoder._tokenizer.ids(["a b c d e f g h"])[0]) - 6
    ]
    assert encoded.dropped_terms.tolist() == [
        len(set(encoder.tokenize(["a b c d e f g h"], "query").ids[0])) - 2
    ]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda size: np.ones(size - 1, dtype=np.float32), "the vocabulary has"),
        (lambda size: np.where(np.arange(size) == 7, np.nan, 1.0), "term 7 is nan"),
        (lambda size: np.where(np.arange(size) == 9, -0.5, 1.0), "term 9 is -0.5"),
    ],
)
def test_a_bad_table_is_refused(lexical_model, weights, message):
    size = Manifest.load(lexical_model).vocabulary_size
    save_file({"weight": weights(size)}, lexical_model / "query_weights.safetensors")
    with pytest.raises(CorruptError, match=message):
        Encoder.from_pretrained(lexical_model)


def test_a_torn_table_is_refused(lexical_model):
    (lexical_model / "query_weights.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptError, match="not readable"):
        Encoder.from_pretrained(lexical_model)


def test_masked_lms_keep_their_closing_token_when_cut(masked_lm):
    directory = masked_lm()
    encoder = Encoder.from_pretrained(directory)
    (ids,) = encoder.tokenize(["river " * 100], "document").ids
    assert (len(ids), ids[0], ids[-1]) == (32, 2, 3)


def test_with_counts_there_is_room_for_a_term_that_stands_there_four_times():
    assert table([1.0, 5.0]).largest == 5.0
    assert table([1.0, 5.0], counts=True).largest == 20.0
