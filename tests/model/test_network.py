"""Attention variants on a random model of each architecture, and heads."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from csplade.core.errors import IncompatibleError
from csplade.model import Manifest
from csplade.model.checkpoint.head import Head
from csplade.model.checkpoint.load import build_network

from ..tape import TapeRecorder

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.25,
}
WINDOW = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
DECODERS = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, **WINDOW}),
    "qwen3": ("Qwen3", {"head_dim": 8, "use_sliding_window": True, **WINDOW}),
    "mistral": ("Mistral", {"sliding_window": 16}),
    "gemma": ("Gemma", {"head_dim": 8}),
    "gemma3_text": ("Gemma3", {"head_dim": 8, **WINDOW}),
}


def decoder(kind, **values):
    name, more = DECODERS[kind]
    config_class = getattr(transformers, f"{name}{'Text' if name == 'Gemma3' else ''}Config")
    torch.manual_seed(3)
    return getattr(transformers, f"{name}ForCausalLM")(
        config_class(**{**SMALL, **more, **values})
    ).eval()


def network(model, variant, architecture="causal_lm"):
    size = model.config.get_text_config().vocab_size
    terms = np.arange(size, dtype=np.int32)
    manifest = Manifest(architecture=architecture, variant=variant, vocabulary_size=size)
    return build_network(
        model, manifest, Head(terms, np.zeros(size, dtype=np.float32), terms)
    ).requires_grad_(False)


@pytest.mark.parametrize("variant", ["causal", "bidirectional"])
@pytest.mark.parametrize("kind", DECODERS)
def test_only_bidirectional_tokens_see_later_ones_and_none_sees_padding(kind, variant):
    net = network(decoder(kind), variant)
    assert net.body.config.model_type == kind
    net.check_attention(16)
    torch.manual_seed(5)
    ids = torch.randint(10, 60, (1, 12))
    changed = ids.clone()
    changed[0, 9] += 1
    lengths = torch.tensor([12])
    one, other = net.hidden(ids, lengths)[0], net.hidden(changed, lengths)[0]
    same = [torch.equal(one[i], other[i]) for i in range(12)]
    assert same == ([False] * 12 if variant == "bidirectional" else [True] * 9 + [False] * 3)
    padded = torch.cat([ids, torch.full((1, 7), 33)], dim=1)
    torch.testing.assert_close(net.hidden(padded, lengths)[0, :12], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", DECODERS)
def test_bidirectional_equals_a_mask_of_ones(kind):
    model = decoder(kind)
    ids = torch.randint(10, 60, (1, 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = model(ids, attention_mask=torch.ones(1, 1, 9, 9, dtype=torch.bool)).logits[0]
    found = network(model, "bidirectional")(ids, torch.tensor([9]))[0]
    torch.testing.assert_close(found, torch.log1p(torch.relu(logits)).amax(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", DECODERS)
def test_the_host_does_not_wait_in_the_body_and_windows_stay(kind):
    net = network(decoder(kind), "causal")
    ids = torch.randint(10, 60, (2, 40), generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([40, 31])
    plain = net.hidden(ids, lengths)  # with gradients, transformers looks for packed texts
    with torch.inference_mode():
        recording = TapeRecorder().record(lambda: net.hidden(ids, lengths))
        torch.testing.assert_close(recording.outputs, plain)


@pytest.mark.parametrize("variant", ["causal", "bidirectional", "echo"])
@pytest.mark.parametrize("kind", DECODERS)
def test_padded_batches_give_the_same_weights(kind, variant):
    net = network(decoder(kind), variant)
    assert_padded_alike(net)


def assert_padded_alike(net):
    lengths = torch.tensor([7, 0, 11, 1])
    ids = torch.randint(10, 60, (4, 11), generator=torch.Generator().manual_seed(4))
    wider = torch.nn.functional.pad(ids.to(torch.int32), (0, 4), value=17)
    with torch.inference_mode():
        found, truth = net.padded(wider, lengths), net(ids, lengths, own_terms=False)
    assert truth[0].any()
    assert not found[1].any()
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "mistral", "gemma3_text"])
def test_texts_longer_than_the_window_are_refused(kind):
    with pytest.raises(
        IncompatibleError,
        match=r"texts of 17 tokens are longer than the attention window of .*, 16",
    ):
        network(decoder(kind), "bidirectional").check_attention(17)
    network(decoder(kind), "causal").check_attention(17)


def test_an_unused_window_is_no_bound():
    model = decoder("qwen2", use_sliding_window=False, layer_types=["full_attention"] * 2)
    network(model, "bidirectional").check_attention(100)


def test_an_unchecked_decoder_is_refused_only_without_its_mask():
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    model = transformers.GPT2LMHeadModel(config).eval()
    network(model, "causal").check_attention(32)
    with pytest.raises(IncompatibleError, match="not checked for gpt2, only for gemma"):
        network(model, "bidirectional").check_attention(32)


def test_attention_that_takes_no_boolean_mask_is_refused():
    model = decoder("llama")
    model.set_attn_implementation("eager")
    with pytest.raises(IncompatibleError, match="needs attention by sdpa, LlamaModel has eager"):
        network(model, "bidirectional").check_attention(32)


def test_a_decoder_that_is_bidirectional_already_is_no_causal_one():
    with pytest.raises(IncompatibleError, match="lacks the attention mask"):
        network(decoder("gemma3_text", use_bidirectional_attention=True), "causal").check_attention(
            16
        )


def test_padding_that_is_seen_is_refused(monkeypatch):
    net = network(decoder("llama"), "bidirectional")
    monkeypatch.setattr(net, "_attention", lambda *_: {"is_causal": False})
    with pytest.raises(IncompatibleError, match="see the padding after them"):
        net.check_attention(32)


def test_a_batch_without_padding_needs_no_mask(monkeypatch):
    net, seen = network(decoder("llama"), "bidirectional"), []
    forward = net.body.forward
    monkeypatch.setattr(
        net.body, "forward", lambda **inputs: seen.append(inputs) or forward(**inputs)
    )
    ids = torch.randint(10, 60, (2, 6), generator=torch.Generator().manual_seed(2))
    whole = net.hidden(ids, torch.tensor([6, 6]))
    padded = net.hidden(ids, torch.tensor([6, 4]))
    assert (seen[0]["attention_mask"], seen[0]["is_causal"]) == (None, False)
    assert seen[1]["attention_mask"].shape == (2, 1, 6, 6)
    torch.testing.assert_close(padded[0], whole[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("cap", "complaint"),
    [
        ({"attn_logit_softcapping": None}, "more than a constant factor"),
        ({"final_logit_softcapping": None}, "attn_logit_softcapping 50.0"),
    ],
)
def test_a_soft_cap_is_refused(cap, complaint):
    torch.manual_seed(3)
    config = transformers.Gemma2Config(**SMALL, head_dim=8, **cap)
    model = transformers.Gemma2ForCausalLM(config).eval()
    model.lm_head.weight.data *= 100
    with pytest.raises(IncompatibleError, match=complaint):
        network(model, "causal")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Granite", {"logits_scaling": 7.0}),
        ("Cohere", {"logit_scale": 0.0625}),
        ("Cohere2", {"logit_scale": 0.3}),
    ],
)
def test_a_constant_factor_on_logits_is_folded_in(name, values, dtype):
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**SMALL, pad_token_id=0, **values)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval().to(dtype)
    ids = torch.randint(10, 60, (1, 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = model(ids).logits[0].float()
    net = network(model, "causal")
    (value,) = values.values()
    assert net.scale == (1 / value if name == "Granite" else value)
    expected = torch.log1p(torch.relu(logits)).amax(0)
    tolerance = (
        {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    )
    torch.testing.assert_close(net(ids, torch.tensor([9]))[0], expected, **tolerance)


def test_a_factor_that_the_configuration_does_not_name_is_measured(monkeypatch):
    model = decoder("llama").to(torch.bfloat16)
    forward = type(model).forward

    def scaled(self, *args, **options):
        output = forward(self, *args, **options)
        output.logits = output.logits * 0.7
        return output

    monkeypatch.setattr(type(model), "forward", scaled)
    assert network(model, "causal").scale == pytest.approx(0.7, rel=1e-6)
    assert next(model.parameters()).dtype == torch.bfloat16


MASKED = {
    "Bert": {},
    "Roberta": {"pad_token_id": 1},
    "DistilBert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    "MPNet": {"pad_token_id": 1},
    "ModernBert": {"pad_token_id": 0, "global_attn_every_n_layers": 2, "local_attention": 8},
    "Electra": {"embedding_size": 16},
}


@pytest.mark.parametrize("name", MASKED)
def test_masked_lm_equals_its_own_logits(name):
    torch.manual_seed(4)
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **MASKED[name]})
    model = getattr(transformers, f"{name}ForMaskedLM")(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.5)
    ids, lengths = torch.randint(10, 60, (2, 12)), torch.tensor([12, 5])
    mask = torch.arange(12) < lengths[:, None]
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask.long()).logits
    expected = (torch.log1p(torch.relu(logits)) * mask[..., None]).amax(1)
    net = network(model, "bidirectional", "masked_lm")
    net.check_attention(32)
    torch.testing.assert_close(net(ids, lengths), expected, rtol=1e-4, atol=1e-5)
    assert_padded_alike(net)


def test_a_head_that_goes_on_after_its_output_layer_is_refused():
    model = transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)).eval()
    decode = model.cls.forward
    model.cls.forward = lambda hidden: decode(hidden) + 1
    with pytest.raises(IncompatibleError, match="more than a constant factor"):
        network(model, "bidirectional", "masked_lm")
