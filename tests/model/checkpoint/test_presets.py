"""Checkpoints of every family, each compared with what its own users run."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from csplade.core.errors import CorruptError, IncompatibleError, InputError, UnavailableError
from csplade.model import Encoder, Manifest
from csplade.model.certify import certify
from csplade.model.checkpoint import presets
from csplade.model.checkpoint.layout import resolve

TEXTS = [
    "how do plants turn sunlight into energy?",
    "river",
    "the glacier feeds a river that reaches the sea; bread rises when yeast turns sugar into gas, "
    "water " * 2,
]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def load(path, **options):
    return Encoder.from_pretrained(path, device="cpu", dtype=torch.float32, **options)


def dense(vectors, size):
    rows = np.zeros((len(vectors), size), dtype=np.float32)
    for row, (terms, weights) in zip(rows, vectors, strict=True):
        row[terms] = weights
    return rows


def plain_masked(directory, texts, length):
    """naver/splade: log1p(relu(logits)) times the attention mask, maximum over all tokens."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
    mask = inputs["attention_mask"]
    with torch.inference_mode():
        model = AutoModelForMaskedLM.from_pretrained(directory)
        logits = model(input_ids=inputs["input_ids"], attention_mask=mask).logits
    return (torch.log1p(torch.relu(logits)) * mask[..., None]).amax(1).numpy()


def plain_causal(model, tokenizer, texts, *, prefix="", length, special, scale=1.0):
    """Lion and LACONIC: full attention, logits times a scale, maximum over tokens, then
    log1p(relu).
    """
    rows = []
    for text in texts:
        ids = tokenizer(prefix + text.strip(), add_special_tokens=special)["input_ids"][:length]
        mask = torch.ones(1, 1, len(ids), len(ids), dtype=torch.bool)
        with torch.inference_mode():
            logits = model(torch.tensor([ids]), attention_mask=mask).logits[0] * scale
        rows.append(torch.log1p(torch.relu(logits.amax(0))).numpy())
    return np.stack(rows)


@pytest.mark.parametrize(("kind", "bins"), [("bert", False), ("bert", True), ("distilbert", False)])
def test_masked_lm_splade(masked_lm, kind, bins):
    directory = masked_lm(kind, bins=bins)
    encoder = load(directory)
    assert encoder.preset == "splade"
    assert (encoder.manifest.architecture, encoder.manifest.document_max_tokens) == (
        "masked_lm",
        32,
    )
    expected = plain_masked(directory, TEXTS, 32)
    for found in (encoder.encode_query(TEXTS), encoder.encode_document(TEXTS)):
        np.testing.assert_allclose(dense(found, encoder.vocabulary_size), expected, **TOLERANCE)


def test_lion_sp_adapter(adapter, byte_pairs):
    from peft import PeftModel

    directory = adapter("LlamaBiForMNTP")
    base = json.loads((directory / "adapter_config.json").read_text())["base_model_name_or_path"]
    byte_pairs.save_pretrained(directory)
    encoder = load(directory)
    assert encoder.preset == "lion-sp"
    assert encoder.manifest.logit_scale == 48**-0.25
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), directory
    ).merge_and_unload()
    for kind, length in (("query", 64), ("document", 128)):
        expected = plain_causal(
            model, byte_pairs, TEXTS, length=length, special=True, scale=48**-0.25
        )
        found = encoder.encode(TEXTS, kind).vectors
        np.testing.assert_allclose(dense(found, encoder.vocabulary_size), expected, **TOLERANCE)


def test_laconic_without_a_tokenizer(causal_lm, byte_pairs, tmp_path, monkeypatch):
    directory = causal_lm(tokenizer=False)
    byte_pairs.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(CorruptError, match="--tokenizer BASE"):
        load(directory, preset="laconic")
    encoder = load(directory, preset="laconic", tokenizer=tmp_path / "tokenizer")
    model = AutoModelForCausalLM.from_pretrained(directory)
    for kind, prefix in (("query", "query: "), ("document", "passage: ")):
        expected = plain_causal(model, byte_pairs, TEXTS, prefix=prefix, length=256, special=False)
        found = encoder.encode(TEXTS, kind).vectors
        np.testing.assert_allclose(dense(found, encoder.vocabulary_size), expected, **TOLERANCE)
    # A hub id tells what the files do not.
    monkeypatch.setattr(
        presets, "resolve", lambda name: tmp_path / "tokenizer" if name == "t" else directory
    )
    assert load("utahnlp/laconic-1b", tokenizer="t").preset == "laconic"
    assert load("utahnlp/laconic-1b", tokenizer="t").fingerprint == encoder.fingerprint


@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_sparse_encoder_directory_equals_sentence_transformers(sparse_encoder, activation, kind):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    directory = sparse_encoder(activation=activation, kind=kind)
    peer = sentence_transformers.SparseEncoder(str(directory), device="cpu")
    encoder = load(directory)
    assert encoder.preset == "sentence-transformers"
    assert encoder.manifest.query_prefix == "river: "
    compare(encoder, peer)


def test_inference_free_sparse_encoder_equals_sentence_transformers(sparse_encoder):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    directory = sparse_encoder(activation="log1p_relu", inference_free=True)
    peer = sentence_transformers.SparseEncoder(str(directory), device="cpu")
    encoder = load(directory)
    assert encoder.manifest.query_encoder == "lexical"
    compare(encoder, peer)


def test_directory_that_sentence_transformers_saved(sparse_encoder, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    peer = sentence_transformers.SparseEncoder(
        str(sparse_encoder(inference_free=True)), device="cpu"
    )
    peer.save_pretrained(str(tmp_path / "saved"))
    compare(load(tmp_path / "saved"), peer)


def compare(encoder, peer):
    for ours, theirs in (
        (encoder.encode_query(TEXTS), peer.encode_query(TEXTS)),
        (encoder.encode_document(TEXTS), peer.encode_document(TEXTS)),
    ):
        expected = theirs.to_dense().cpu().numpy()
        assert (expected > 0).any(1).all()
        np.testing.assert_allclose(dense(ours, encoder.vocabulary_size), expected, **TOLERANCE)


@pytest.mark.parametrize("preset", ["opensearch-v2", "opensearch-v3"])
def test_opensearch_document_encoder(masked_lm, word_pieces, preset):
    directory = masked_lm("distilbert")
    idf = {token: 0.1 * term for token, term in word_pieces.get_vocab().items() if term >= 5}
    (directory / "idf.json").write_text(json.dumps(idf))
    with pytest.raises(InputError, match=r"once .* or twice"):
        load(directory)
    encoder = load(directory, preset=preset)
    expected = plain_masked(directory, TEXTS, 32)
    expected = np.log1p(expected) if preset == "opensearch-v3" else expected
    expected[:, word_pieces.all_special_ids] = 0
    found = dense(encoder.encode_document(TEXTS), encoder.vocabulary_size)
    np.testing.assert_allclose(found, expected, **TOLERANCE)
    for row, text in zip(encoder.encode_query(TEXTS), TEXTS, strict=True):
        terms = sorted(set(word_pieces(text.strip(), add_special_tokens=False)["input_ids"][:32]))
        terms = [term for term in terms if term >= 5]
        assert row[0].tolist() == terms
        np.testing.assert_allclose(row[1], 0.1 * np.array(terms), rtol=1e-6)


def test_adapter_with_a_forced_preset(adapter):
    directory = adapter()
    with pytest.raises(InputError, match=r"nothing in its files says .* csplade, csplade-echo"):
        load(directory)
    assert load(directory, preset="csplade-echo").manifest.variant == "echo"


def test_certify_keeps_a_preset_in_the_directory(causal_lm, byte_pairs, tmp_path, caplog):
    directory = causal_lm(tokenizer=False)
    byte_pairs.save_pretrained(tmp_path / "tokenizer")
    before = load(directory, preset="laconic", tokenizer=tmp_path / "tokenizer")
    assert "csplade model certify" in caplog.text
    assert "\n" not in caplog.records[-1].getMessage()
    certify(directory, preset="laconic", tokenizer=tmp_path / "tokenizer")
    caplog.clear()
    after = load(directory)
    assert caplog.text == ""
    assert after.preset == "csplade.json"
    assert after.fingerprint == before.fingerprint
    assert len(after.manifest.golden) == 3
    with pytest.raises(InputError, match="leave out preset"):
        load(directory, preset="laconic")


def test_fingerprint_follows_weights_table_and_vocabulary(sparse_encoder, word_pieces):
    directory = sparse_encoder(inference_free=True)
    manifest = presets.read(directory).manifest
    assert manifest.vocabulary_hash
    table = directory / "query_0_SparseStaticEmbedding" / "model.safetensors"
    table.write_bytes(table.read_bytes()[:-1] + b"\x01")
    assert presets.read(directory).manifest.fingerprint != manifest.fingerprint


def test_refuses_an_unknown_preset(masked_lm):
    with pytest.raises(
        InputError, match=r"preset is 'colbert', must be one of csplade, .*opensearch-v3"
    ):
        load(masked_lm(), preset="colbert")


def test_refuses_a_preset_for_the_other_kind(masked_lm, causal_lm):
    with pytest.raises(IncompatibleError, match="laconic is for a causal lm, this is a masked lm"):
        load(masked_lm(), preset="laconic")
    with pytest.raises(IncompatibleError, match="splade is for a masked lm, this is a causal lm"):
        load(causal_lm(), preset="splade")


def test_refuses_what_is_no_language_model(masked_lm):
    directory = masked_lm()
    config = json.loads((directory / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        IncompatibleError, match=r"BertForSequenceClassification.*neither a causal nor a masked"
    ):
        load(directory)


def test_refuses_sum_pooling(sparse_encoder):
    with pytest.raises(InputError, match="pooling_strategy is 'sum', only 'max'"):
        load(sparse_encoder(pooling="sum"))


def test_refuses_a_second_model_for_queries(sparse_encoder):
    directory = sparse_encoder(inference_free=True)
    path = directory / "router_config.json"
    router = json.loads(path.read_text())
    router["structure"]["query"] = ["", "document_1_SpladePooling"]
    path.write_text(json.dumps(router))
    with pytest.raises(InputError, match="query route is MLMTransformer and SpladePooling"):
        load(directory)


def test_refuses_modules_of_a_dense_model(sparse_encoder):
    directory = sparse_encoder()
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match="modules are Transformer, must be"):
        load(directory)


def test_refuses_lions_dense_twin(adapter):
    with pytest.raises(IncompatibleError, match="LlamaBiModel, which gives dense vectors"):
        load(adapter("LlamaBiModel"))


def test_refuses_an_adapter_of_another_base(adapter, causal_lm, tmp_path):
    directory = adapter("LlamaBiForMNTP")
    path = directory / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["base_model_name_or_path"] = str(causal_lm(tmp_path / "other", hidden=32))
    path.write_text(json.dumps(settings))
    with pytest.raises(IncompatibleError, match=r"does not fit the base .*other") as caught:
        load(directory)
    assert "\n" not in str(caught.value)


def test_refuses_an_adapter_with_more_layers_than_the_base(adapter):
    directory = adapter("LlamaBiForMNTP")
    base = json.loads((directory / "adapter_config.json").read_text())["base_model_name_or_path"]
    config = json.loads((resolve(base) / "config.json").read_text())
    config["num_hidden_layers"] = 1
    (resolve(base) / "config.json").write_text(json.dumps(config))
    with pytest.raises(IncompatibleError, match=r"layers\.1\..*the base has no place for it"):
        load(directory)


def test_refuses_an_adapter_without_its_base_or_its_weights(adapter):
    directory = adapter("LlamaBiForMNTP")
    (directory / "adapter_model.safetensors").unlink()
    with pytest.raises(CorruptError, match=r"no adapter_model.safetensors"):
        load(directory)
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere/base"}')
    with pytest.raises(
        UnavailableError, match=r"base of its adapter is out of reach: .*'/nowhere/base'"
    ):
        load(directory)


def test_refuses_another_models_tokenizer(causal_lm, word_pieces, tmp_path):
    values = json.loads(word_pieces.backend_tokenizer.to_str())
    values["model"]["vocab"] |= {f"filler{number}": 100 + number for number in range(400)}
    word_pieces.save_pretrained(tmp_path / "wide")
    (tmp_path / "wide" / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(IncompatibleError, match=r"tokens beyond the 424 terms .*--tokenizer"):
        load(causal_lm(tokenizer=False), preset="csplade", tokenizer=tmp_path / "wide")


def test_added_tokens_beyond_the_vocabulary_are_refused_where_a_text_holds_one(
    causal_lm, byte_pairs, tmp_path, caplog
):
    wide = copy.deepcopy(byte_pairs)
    wide.add_tokens([f"<extra{number}>" for number in range(30)])
    wide.save_pretrained(tmp_path / "wide")
    encoder = load(causal_lm(tokenizer=False), preset="csplade", tokenizer=tmp_path / "wide")
    assert "added tokens beyond the 424 terms" in caplog.text
    assert len(encoder.encode_document(["a river"]).terms)
    with pytest.raises(InputError, match=r"holds token '<extra29>', which was added"):
        encoder.encode_document(["a <extra29> river"])


def test_refuses_weights_that_are_not_all_there(causal_lm):
    directory = causal_lm()
    path = directory / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        CorruptError, match=r"no weights for model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        load(directory, preset="csplade")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorruptError, match="no causal language model can be loaded") as caught:
        load(directory, preset="csplade")
    assert "\n" not in str(caught.value)


def test_a_hub_out_of_reach_is_one_line(monkeypatch):
    import huggingface_hub

    def refuse(*_args, **_options):
        raise ConnectionError("no route to host\nafter five retries")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(
        UnavailableError, match="'naver/splade-v3': the hub does not give it: no route to host; go"
    ) as caught:
        load("naver/splade-v3")
    assert "\n" not in str(caught.value)


def test_a_given_manifest_gets_sizes_and_hashes(causal_lm):
    encoder = load(causal_lm(), manifest=Manifest())
    assert encoder.preset == "given"
    assert encoder.manifest.vocabulary_size == 424
    assert encoder.manifest.vocabulary_hash
    assert encoder.manifest.weights_hash
