"""What cannot give its own vectors is refused with one line that names the file and the remedy."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from csplade.core.errors import CorruptError, CspladeError, IncompatibleError, UnavailableError
from csplade.model import Encoder
from csplade.model.certify import certify


def load(path, **options):
    return Encoder.from_pretrained(
        path, device="cpu", dtype=torch.float32, preset=options.pop("preset", "csplade"), **options
    )


def refused(path, error, match, **options):
    with pytest.raises(error, match=match) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit(path, rewrite):
    tensors = load_file(path)
    rewrite(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def drop(*names):
    def rewrite(tensors):
        for key in [key for key in tensors if any(name in key for name in names)]:
            del tensors[key]

    return rewrite


@pytest.mark.parametrize(
    ("rewrite", "complaint"),
    [
        (drop("layers.1."), r"its file lacks base_model\.model\.model\.layers\.1\..* and 5 more"),
        (drop("lora_A"), r"its file lacks .*lora_A.weight and 5 more"),
        (
            lambda tensors: tensors.update({"base_model.model.visual.weight": torch.ones(2)}),
            r"it has base_model\.model\.visual\.weight, the base has no place for it",
        ),
        (lambda tensors: tensors.clear(), "has no weights"),
    ],
)
def test_adapters_are_compared_key_by_key(adapter, rewrite, complaint):
    directory = adapter()
    load(directory)
    edit(directory / "adapter_model.safetensors", rewrite)
    refused(directory, IncompatibleError, complaint)


@pytest.mark.parametrize("kind", ["IA3Config", "LoHaConfig", "VeraConfig", "OFTConfig"])
def test_other_kinds_of_adapters_are_merged_or_refused(causal_lm, byte_pairs, tmp_path, kind):
    import peft
    from transformers import AutoModelForCausalLM

    base, directory = causal_lm(tmp_path / "base"), tmp_path / "adapter"
    values = {
        "IA3Config": {"feedforward_modules": []},
        "OFTConfig": {"oft_block_size": 4, "r": 0},
    }.get(kind, {"r": 4})
    config = getattr(peft, kind)(target_modules=["q_proj"], **values)
    torch.manual_seed(15)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(str(directory))
    change(directory / "adapter_config.json", base_model_name_or_path=str(base))
    encoder = load(directory)
    (ids,) = encoder.tokenize(["a river"], "document").ids
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
    expected = torch.log1p(torch.relu(logits)).amax(0).numpy()
    terms, weights = encoder.encode_document(["a river"]).row(0)
    np.testing.assert_allclose(weights, expected[terms], rtol=1e-3, atol=1e-4)
    edit(directory / "adapter_model.safetensors", drop("layers.1."))
    refused(directory, IncompatibleError, "lacks")


def test_learned_prompts_are_refused_by_name(causal_lm, tmp_path):
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base, directory = causal_lm(tmp_path / "base"), tmp_path / "adapter"
    config = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(directory)
    change(directory / "adapter_config.json", base_model_name_or_path=str(base))
    refused(directory, IncompatibleError, "peft_type is PROMPT_TUNING")


def test_an_adapter_with_an_enlarged_vocabulary(causal_lm, byte_pairs, tmp_path):
    import copy

    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base, directory = causal_lm(tmp_path / "base"), tmp_path / "adapter"
    words = copy.deepcopy(byte_pairs)
    words.add_tokens([f"<extra{number}>" for number in range(30)])
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(430, mean_resizing=False)
    torch.manual_seed(16)
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(model, config)
    model.save_pretrained(str(directory), save_embedding_layers=True)
    words.save_pretrained(directory)
    change(directory / "adapter_config.json", base_model_name_or_path=str(base))
    encoder = load(directory)
    assert encoder.vocabulary_size == 430
    (ids,) = encoder.tokenize(["a <extra29> river"], "document").ids
    assert ids.max() == 429
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
    terms, weights = encoder.encode_document(["a <extra29> river"]).row(0)
    expected = torch.log1p(torch.relu(logits)).amax(0).numpy()
    np.testing.assert_allclose(weights, expected[terms], rtol=1e-3, atol=1e-4)


def test_a_base_that_moved_is_given(adapter, causal_lm, tmp_path):
    directory = adapter()
    expected = load(directory).encode_document(["a river"])
    (tmp_path / "base").rename(tmp_path / "moved")
    refused(directory, UnavailableError, "give where it is here: --base")
    found = load(directory, base=tmp_path / "moved")
    np.testing.assert_array_equal(found.encode_document(["a river"]).weights, expected.weights)
    certify(directory, preset="csplade", base=tmp_path / "moved")
    certified = Encoder.from_pretrained(directory, device="cpu")
    assert certified.fingerprint == found.fingerprint


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["lm_head.weight", "model.norm.weight"])
def test_weights_that_are_not_finite_are_named(causal_lm, name, value):
    directory = causal_lm()
    edit(directory / "model.safetensors", lambda tensors: tensors[name].view(-1)[3:5].fill_(value))
    refused(directory, CorruptError, rf"{name} has values that are not finite")


def test_an_adapter_that_is_not_finite_is_named(adapter):
    directory = adapter()

    def rewrite(tensors):
        tensors[sorted(tensors)[-1]][0, 0] = torch.nan

    edit(directory / "adapter_model.safetensors", rewrite)
    refused(directory, CorruptError, r"adapter_model.safetensors: .*lora_B.weight has values")


def test_a_model_that_finds_nothing_is_not_certified(causal_lm):
    directory = causal_lm()
    edit(directory / "model.safetensors", lambda tensors: tensors["lm_head.weight"].zero_())
    with pytest.raises(IncompatibleError, match="gives an empty vector: no logit is above 0"):
        certify(directory, preset="csplade")
    assert not (directory / "csplade.json").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_git_lfs_pointers(causal_lm, name):
    directory = causal_lm()
    (directory / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    refused(directory, CorruptError, f"{name}: is a Git LFS pointer.*git lfs pull")


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_weights_quantized_elsewhere(causal_lm, method):
    directory = causal_lm()
    change(directory / "config.json", quantization_config={"quant_method": method, "bits": 4})
    refused(directory, IncompatibleError, f"quantized by {method}.*--quantization int8")


def test_code_of_a_checkpoint_is_never_run(causal_lm, monkeypatch):
    directory = causal_lm()
    change(
        directory / "config.json",
        model_type="new_kind",
        auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    )
    (directory / "code.py").write_text(f"open({str(directory / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    refused(directory, CspladeError, "needs code of its own .* never runs")
    assert not (directory / "ran").exists()


def test_token_caps_stay_within_learned_positions(byte_pairs, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(17)
    config = GPT2Config(
        vocab_size=len(byte_pairs), n_embd=32, n_layer=1, n_head=2, n_positions=40,
        initializer_range=0.3,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    byte_pairs.save_pretrained(tmp_path)
    for preset, most in (("csplade", 40), ("csplade-echo", 20)):
        encoder = load(tmp_path, preset=preset)
        assert encoder.manifest.document_max_tokens == most
        assert encoder.encode(["river " * 99], "document").tokens.tolist() == [most]
    certify(tmp_path, preset="csplade")
    change(tmp_path / "csplade.json", document_max_tokens=41, golden=[])
    with pytest.raises(IncompatibleError, match="has 40 positions, the manifest's token caps"):
        Encoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"rope_parameters": {"rope_theta": 9e5, "rope_type": "default"}}),
        ("config.json", {"hidden_act": "gelu"}),
        ("tokenizer.json", {"pre_tokenizer": None}),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}),
        ("tokenizer_config.json", {"add_prefix_space": True}),
    ],
)
def test_files_that_changed_after_certification(causal_lm, file, values):
    directory = causal_lm()
    uncertified = load(directory).fingerprint
    certify(directory, preset="csplade")
    before = Encoder.from_pretrained(directory).fingerprint
    assert before == uncertified
    change(directory / file, **values)
    with pytest.raises(IncompatibleError, match="changed since it was certified"):
        Encoder.from_pretrained(directory)
    certify(directory)
    assert Encoder.from_pretrained(directory).fingerprint != before


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"transformers_version": "5.99", "dtype": "bfloat16", "use_cache": False}),
        ("tokenizer_config.json", {"chat_template": "{{ messages }}", "padding_side": "left"}),
    ],
)
def test_what_changes_no_vector_changes_no_fingerprint(causal_lm, file, values):
    directory = causal_lm()
    certify(directory, preset="csplade")
    before = Encoder.from_pretrained(directory).fingerprint
    change(directory / file, **values)
    assert Encoder.from_pretrained(directory).fingerprint == before
