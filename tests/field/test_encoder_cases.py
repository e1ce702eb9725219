"""A checkpoint gives the vectors that its own library gives, or is refused with one line."""

import json

import numpy as np
import pytest
import torch

from csplade.core.errors import CspladeError, IncompatibleError, InputError
from csplade.model import Encoder
from csplade.model.certify import certify

TEXTS = ["how do plants turn sunlight into energy?", "river", "The glacier feeds a River " * 30]
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}

REFUSED = {
    "bge-m3": "modules are Transformer and Pooling and Normalize",
    "dead-llama": "has an empty or infinite vector",
    "gpt2-positions": "has 200 positions",
    "gptq-config": "quantized by gptq.*--quantization",
    "head-lost": "no weights for lm_head",
    "headless": "neither a causal nor a masked language model",
    "inf-bert-bias-row": r"cls\.predictions\.bias has values that are not finite",
    "lfs-pointer": "model.safetensors: is a Git LFS pointer",
    "lfs-pointer-tokenizer": "tokenizer.json: is a Git LFS pointer",
    "logits-gemma2": "softcapping",
    "logits-granite": "golden query .* times as large",  # certified without its factor
    "nan-llama-embed-rows": "embed_tokens.weight has values that are not finite",
    "nan-llama-head-rows": "lm_head.weight has values that are not finite",
    "no-tokenizer": "--tokenizer",
    "peft-dead-base": "--base",
    "peft-ia3-more-layers": "does not fit the base",
    "peft-lora-empty": "lacks .*lora_A.weight and 11 more",
    "peft-missing-keys": r"lacks .*layers\.1.*and 5 more",
    "peft-missing-saved-head": "lacks .*lm_head.weight",
    "peft-nan": "v_proj.lora_B.weight has values that are not finite",
    "peft-prefix": "peft_type is PREFIX_TUNING",
    "peft-prompt": "peft_type is PROMPT_TUNING",
    "remote-code": "needs code of its own .* never runs",
    "shard-lost": "model-00002-of-00006",
    "shard-truncated": "no causal language model can be loaded",
    "splade-architecture-missing": "neither a causal nor a masked language model",
    "tokenizer-config-only": "--tokenizer",
}
CAUSAL = [
    "logits-bloom", "logits-gpt2", "logits-gptneox", "logits-hyperclovax", "logits-mamba",
    "logits-mpt", "logits-olmo2", "logits-opt", "logits-phi", "tokenizer-larger",
]  # fmt: skip
ADAPTERS = [
    "peft-added-tokens", "peft-added-tokens-fit", "peft-bias-all", "peft-bin", "peft-dora",
    "peft-ia3", "peft-layers-subset", "peft-loha", "peft-lora", "peft-lora-embed",
    "peft-lora-lmhead", "peft-modules-to-save", "peft-rslora", "peft-trainable-tokens",
    "peft-vera",
]  # fmt: skip
SPARSE_ENCODERS = [
    "mlm-albert", "mlm-bert-gelu-padded-vocab", "mlm-deberta2", "mlm-electra", "mlm-modernbert",
    "mlm-mpnet", "mlm-roberta", "mlm-xlmr", "router-idf-path", "router-own-query-tokenizer",
    "st6-default-prompt", "st6-max-active-dims", "st6-peft", "st6-plain", "st6-prompts",
    "st6-router", "tok-json-padding", "tok-left-padding",
]  # fmt: skip


def load(directory, **options):
    return Encoder.from_pretrained(directory, device="cpu", dtype=torch.float32, **options)


def dense(vectors, size):
    rows = np.zeros((len(vectors), size), dtype=np.float32)
    for row, (terms, weights) in zip(rows, vectors, strict=True):
        row[terms] = weights
    return rows


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_line(encoder_cases, name):
    directory = encoder_cases(name, "peft-base") / "model"
    own = (directory / "csplade.json").is_file()
    preset = None if own or name in ("bge-m3", "headless", "remote-code") else "csplade"
    if name.startswith(("inf-bert", "splade-arch")):
        preset = None
    with pytest.raises(CspladeError, match=REFUSED[name]) as caught:
        load(directory, preset=preset).load_network()
    assert "\n" not in str(caught.value)


def plain(model, encoder, texts):
    """log1p(relu(logits)), maximum over tokens, one text at a time."""
    rows = []
    for ids in encoder.tokenize(texts, "document").ids:
        with torch.inference_mode():
            logits = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].float()
        rows.append(torch.log1p(torch.relu(logits)).amax(0).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_models(encoder_cases, name):
    from transformers import AutoModelForCausalLM

    directory = encoder_cases(name) / "model"
    encoder = load(directory, preset="csplade")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    found = dense(encoder.encode_document(TEXTS), encoder.vocabulary_size)
    np.testing.assert_allclose(found, plain(model, encoder, TEXTS), **TOLERANCE)


def test_a_factor_on_logits_is_certified_anew(encoder_cases):
    from transformers import AutoModelForCausalLM

    directory = encoder_cases("logits-granite") / "model"
    certify(directory)
    encoder = load(directory)
    assert encoder.network.scale == 1 / 8
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    found = dense(encoder.encode_document(TEXTS[:2]), encoder.vocabulary_size)
    np.testing.assert_allclose(found, plain(model, encoder, TEXTS[:2]), **TOLERANCE)


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters(encoder_cases, name):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    directory = encoder_cases(name, "peft-base") / "model"
    encoder = load(directory, preset="csplade")
    model = AutoModelForCausalLM.from_pretrained("peft-base/model", dtype=torch.float32)
    if name == "peft-added-tokens":
        model.resize_token_embeddings(encoder.vocabulary_size, mean_resizing=False)
    adapted = PeftModel.from_pretrained(model, directory).eval()
    found = dense(encoder.encode_document(TEXTS), encoder.vocabulary_size)
    np.testing.assert_allclose(found, plain(adapted, encoder, TEXTS), **TOLERANCE)


def test_an_adapter_whose_base_moved(encoder_cases):
    directory = encoder_cases("peft-dead-base", "peft-base", "peft-lora") / "model"
    certify(directory, preset="csplade", base="peft-base/model")
    found, expected = load(directory), load("peft-lora/model", preset="csplade")
    vectors = [one.encode_document(TEXTS) for one in (found, expected)]
    np.testing.assert_array_equal(vectors[0].weights, vectors[1].weights)
    assert found.fingerprint == load(directory, base="peft-base/model").fingerprint


@pytest.mark.parametrize("name", SPARSE_ENCODERS)
def test_sparse_encoders(encoder_cases, name):
    from sentence_transformers import SparseEncoder

    directory = encoder_cases(name) / "model"
    encoder = load(directory)
    peer = SparseEncoder(str(directory), device="cpu")
    # One text at a time: padding on the left moves the positions of what is padded.
    for ours, theirs in (
        (encoder.encode_query, peer.encode_query),
        (encoder.encode_document, peer.encode_document),
    ):
        expected = np.stack([theirs([text])[0].to_dense().float().numpy() for text in TEXTS])
        found = dense(ours(TEXTS), expected.shape[1])
        np.testing.assert_allclose(found, expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "file", "change"),
    [
        ("config-drift", "config.json", ("rope_parameters", {"rope_theta": 9e5})),
        ("config-drift", "config.json", ("hidden_act", "gelu")),
        ("tokenizer-rules", "tokenizer.json", ("normalizer", None)),
        ("tokenizer-rules", "tokenizer.json", ("post_processor", None)),
    ],
)
def test_files_that_changed_after_certification(encoder_cases, name, file, change):
    directory = encoder_cases(name) / "model"
    certify(directory)
    before = load(directory).fingerprint
    path = directory / file
    values = json.loads(path.read_text())
    values[change[0]] = (
        change[1] and {**values[change[0]], **change[1]}
        if isinstance(change[1], dict)
        else change[1]
    )
    path.write_text(json.dumps(values))
    with pytest.raises(IncompatibleError, match="changed since it was certified"):
        load(directory)
    certify(directory)
    assert load(directory).fingerprint != before


def test_a_router_teaches(encoder_cases, tmp_path):
    from csplade.model.training.teachers import load_teacher

    directory = encoder_cases("st6-router") / "model"
    teacher, encoder = load_teacher(str(directory)), load(directory)
    teacher.prepare(TEXTS, tmp_path, lambda *_: None)
    queries, documents = (
        dense(one(TEXTS), encoder.vocabulary_size)
        for one in (encoder.encode_query, encoder.encode_document)
    )
    np.testing.assert_allclose(teacher.rank(TEXTS), queries @ documents.T, rtol=1e-3, atol=1e-3)


def test_terms_of_a_padded_vocabulary_are_told_before_anything_is_encoded(encoder_cases, tmp_path):
    from csplade.ingest.encode import encode_file

    directory = encoder_cases("mlm-bert-gelu-padded-vocab") / "model"
    corpus, output = tmp_path / "corpus.jsonl", tmp_path / "vectors.jsonl"
    corpus.write_text('{"_id": "a", "text": "river"}\n')
    with pytest.raises(InputError, match=r"have no token string of their own; give --terms ids"):
        encode_file(corpus, output, load(directory))
    assert encode_file(corpus, output, load(directory), keys="ids").texts == 1


def test_a_text_longer_than_the_positions_is_cut(encoder_cases):
    directory = encoder_cases("gpt2-positions") / "model"
    (directory / "csplade.json").unlink()
    for preset, most in (("csplade", 200), ("csplade-echo", 100)):
        encoder = load(directory, preset=preset)
        encoded = encoder.encode(["river " * 400], "document")
        assert encoder.manifest.document_max_tokens == most
        assert encoded.tokens.tolist() == [most]
