"""Settings of sentence-transformers that change vectors or ranking: followed, or refused."""

import copy
import json

import numpy as np
import pytest
import torch
from tokenizers import normalizers

from csplade.core.errors import InputError
from csplade.model import Encoder
from csplade.model.certify import certify
from csplade.model.training.teachers import load_teacher

sentence_transformers = pytest.importorskip("sentence_transformers")

TEXTS = ["how do plants turn sunlight into energy?", "River", "the glacier feeds a river " * 9]


def load(path):
    return Encoder.from_pretrained(path, device="cpu", dtype=torch.float32)


def change(directory, name, **values):
    path = directory / name
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(before | values))


def dense(vectors, size):
    rows = np.zeros((len(vectors), size), dtype=np.float32)
    for row, (terms, weights) in zip(rows, vectors, strict=True):
        row[terms] = weights
    return rows


def both(directory):
    """Vectors of queries and documents, by this encoder and by sentence-transformers."""
    encoder = load(directory)
    peer = sentence_transformers.SparseEncoder(str(directory), device="cpu")
    ours = [
        dense(one(TEXTS), encoder.vocabulary_size)
        for one in (encoder.encode_query, encoder.encode_document)
    ]
    theirs = [one(TEXTS).to_dense().numpy() for one in (peer.encode_query, peer.encode_document)]
    return ours, theirs, peer


@pytest.mark.parametrize("inference_free", [False, True])
def test_cosine_is_the_product_of_normalized_vectors(sparse_encoder, inference_free):
    directory = sparse_encoder(inference_free=inference_free)
    change(directory, "config_sentence_transformers.json", similarity_fn_name="cosine")
    (queries, documents), theirs, peer = both(directory)
    np.testing.assert_allclose(np.linalg.norm(documents, axis=1), 1.0, rtol=1e-5)
    expected = peer.similarity(*(torch.from_numpy(one) for one in theirs)).numpy()
    np.testing.assert_allclose(queries @ documents.T, expected, rtol=1e-4, atol=1e-5)


def test_impacts_are_those_of_the_normalized_weights(sparse_encoder):
    directory = sparse_encoder()
    change(directory, "config_sentence_transformers.json", similarity_fn_name="cosine")
    encoder = load(directory)
    tokens = encoder.tokenize(TEXTS, "query")
    made = encoder.encode_tensors(tokens, "query", impact_scale=0.001)
    expected, _ = encoder.encode_query(TEXTS).quantize(0.001, 4095)
    assert made.impacts[made.terms >= 0].tolist() == expected.impacts.tolist()


def test_other_similarities_are_refused(sparse_encoder):
    directory = sparse_encoder()
    change(directory, "config_sentence_transformers.json", similarity_fn_name="euclidean")
    with pytest.raises(
        InputError, match="similarity_fn_name is 'euclidean', must be dot or cosine"
    ):
        load(directory)


@pytest.mark.parametrize("inference_free", [False, True])
def test_the_largest_dimensions_are_kept_on_both_sides(sparse_encoder, inference_free):
    directory = sparse_encoder(inference_free=inference_free)
    change(directory, "config_sentence_transformers.json", max_active_dims=3)
    ours, theirs, _ = both(directory)
    for found, expected in zip(ours, theirs, strict=True):
        assert ((found > 0).sum(1) <= 3).all()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config_sentence_transformers.json", {"truncate_dim": 64}),
        ("sentence_bert_config.json", {"query_expansion": {"strategy": "mask"}}),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 5}}}),
        ("1_SpladePooling/config.json", {"temperature": 0.5}),
    ],
)
def test_settings_that_are_not_known_are_refused(sparse_encoder, name, values):
    directory = sparse_encoder()
    (key,) = values
    change(directory, name, **{key: None})
    load(directory)
    change(directory, name, **values)
    with pytest.raises(InputError, match=rf"{key} is .* does not know; it may change"):
        load(directory)


def test_each_side_has_its_own_limit(sparse_encoder):
    directory = sparse_encoder()
    change(directory, "sentence_bert_config.json", query_length=5, document_length=9)
    manifest = load(directory).manifest
    assert (manifest.query_max_tokens, manifest.document_max_tokens) == (5, 9)


def test_a_query_route_has_its_own_tokenizer_and_limit(sparse_encoder, word_pieces):
    directory = sparse_encoder(inference_free=True)
    cased = copy.deepcopy(word_pieces)
    cased.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    cased.model_max_length = 4
    cased.save_pretrained(directory / "query_0_SparseStaticEmbedding")
    ours, theirs, _ = both(directory)
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    before = load(directory)
    assert (before.manifest.query_max_tokens, before.manifest.document_max_tokens) == (4, 24)
    certify(directory)
    assert (
        load(directory).tokenize(["River"], "query").ids[0].tolist()
        == before.tokenize(["River"], "query").ids[0].tolist()
    )
    assert (
        load(directory).tokenize(["River"], "document").ids[0].tolist()
        != before.tokenize(["River"], "query").ids[0].tolist()
    )


def test_case_of_documents_alone_is_refused(sparse_encoder):
    directory = sparse_encoder(inference_free=True)
    change(directory, "sentence_bert_config.json", do_lower_case=True)
    with pytest.raises(InputError, match="do_lower_case holds for documents alone"):
        load(directory)


def test_the_end_of_a_text_is_kept_where_the_tokenizer_says_so(sparse_encoder, word_pieces):
    directory = sparse_encoder()
    word_pieces.truncation_side = "left"
    try:
        word_pieces.save_pretrained(directory)
    finally:
        word_pieces.truncation_side = "right"
    ours, theirs, _ = both(directory)
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_inside_is_merged(sparse_encoder, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForMaskedLM

    directory, base = sparse_encoder(), tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "model.safetensors"):
        (directory / name).rename(base / name)
    model = AutoModelForMaskedLM.from_pretrained(base)
    config = LoraConfig(r=4, target_modules=["q_lin", "v_lin"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(str(directory))
    change(directory, "adapter_config.json", base_model_name_or_path=str(base))
    ours, theirs, _ = both(directory)
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_a_router_teaches(sparse_encoder, tmp_path, similarity):
    directory = sparse_encoder(inference_free=True)
    change(directory, "config_sentence_transformers.json", similarity_fn_name=similarity)
    teacher = load_teacher(str(directory))
    teacher.prepare(TEXTS, tmp_path, lambda *_: None)
    (queries, documents), _, _ = both(directory)
    np.testing.assert_allclose(
        teacher.rank(TEXTS[:2]), queries[:2] @ documents.T, rtol=1e-3, atol=1e-4
    )
