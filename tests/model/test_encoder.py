import dataclasses
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from csplade.core.errors import CorruptError, IncompatibleError, InputError, UnavailableError
from csplade.kernels.runtime.memory import WorkingMemory
from csplade.model import Encoder, Manifest

TEXTS = [
    "one",
    "Hash tables map keys to buckets",
    "",
    "a longer text about rivers, mountains and the energy that plants take from sunlight",
    "word " * 200,
    "   ",
    "Zürich: naïve café №5 😀",
]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}  # float32, another order of summation


@pytest.fixture(scope="module", params=["causal", "echo", "bidirectional"])
def variant_model(request, tiny_model_of):
    return tiny_model_of(variant=request.param)


def plain_weights(directory, manifest, text, cap):
    """One text at a time, no padding, every logit, float32: what the formula says, no more."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = tokenizer(text.strip().lower(), add_special_tokens=False)["input_ids"][:cap]
    if not ids:
        return np.zeros(manifest.vocabulary_size), 0
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    inputs = torch.tensor([ids * 2 if manifest.variant == "echo" else ids])
    mask = torch.ones(1, 1, inputs.shape[1], inputs.shape[1], dtype=torch.bool)
    if manifest.variant != "bidirectional":
        mask = mask.tril()
    with torch.inference_mode():
        logits = model(inputs, attention_mask=mask).logits[0, -len(ids) :]
    activated = torch.log1p(torch.relu(manifest.logit_scale * logits + manifest.logit_shift))
    return activated.amax(0).numpy(), len(ids)


@pytest.mark.parametrize("kind", ["query", "document"])
def test_equals_a_plain_forward_pass(variant_model, kind):
    encoder = Encoder.from_pretrained(variant_model, dtype=torch.float32)
    manifest = encoder.manifest
    cap = getattr(manifest, f"{kind}_max_tokens")
    terms_cap = getattr(manifest, f"{kind}_max_terms")
    encoded = encoder.encode(TEXTS, kind)
    for row, text in enumerate(TEXTS):
        expected, length = plain_weights(variant_model, manifest, text, cap)
        assert encoded.tokens[row] == length
        terms, weights = encoded.vectors.row(row)
        assert (np.diff(terms) > 0).all()
        np.testing.assert_allclose(weights, expected[terms], **TOLERANCE)
        positive = int((expected > 0).sum())
        assert len(terms) == min(positive, terms_cap)
        assert encoded.dropped_terms[row] == positive - len(terms)
        left_out = np.delete(expected, terms)
        assert left_out.max() <= (weights.min() if len(weights) else 0) + TOLERANCE["atol"]


def test_counts_what_the_token_cap_cuts(tiny_model):
    encoder = Encoder.from_pretrained(tiny_model)
    whole = len(
        AutoTokenizer.from_pretrained(tiny_model)(TEXTS[4].strip(), add_special_tokens=False)[
            "input_ids"
        ]
    )
    encoded = encoder.encode(TEXTS, "document")
    assert encoded.tokens[4] == encoder.manifest.document_max_tokens
    assert encoded.dropped_tokens.tolist() == [
        0,
        0,
        0,
        0,
        whole - encoder.manifest.document_max_tokens,
        0,
        0,
    ]


def test_batching_does_not_change_vectors(variant_model):
    encoder = Encoder.from_pretrained(variant_model, dtype=torch.float32)
    tokens = encoder.tokenize(TEXTS, "document")
    together = encoder.encode_tokens(tokens, "document", batch_tokens=10_000).vectors
    alone = encoder.encode_tokens(tokens, "document", batch_tokens=1).vectors
    for (terms, weights), (other_terms, other_weights) in zip(together, alone, strict=True):
        both = np.isin(terms, other_terms)
        assert (
            both.mean() > 0.95 if len(terms) else len(other_terms) == 0
        )  # the cap may cut equal weights differently
        np.testing.assert_allclose(
            weights[both], other_weights[np.isin(other_terms, terms)], **TOLERANCE
        )


def test_no_texts_give_no_rows(tiny_model):
    assert len(Encoder.from_pretrained(tiny_model).encode_query([])) == 0


def test_decode_gives_tokens_by_weight(tiny_model):
    encoder = Encoder.from_pretrained(tiny_model)
    vectors = encoder.encode_query([TEXTS[1]])
    (decoded,) = encoder.decode(vectors, top_k=5)
    weights = [weight for _, weight in decoded]
    assert len(decoded) == 5
    assert weights == sorted(vectors.weights.tolist(), reverse=True)[:5]
    assert encoder.vocabulary()[decoded[0][0]] in vectors.terms


def test_one_string_instead_of_a_list_is_refused(tiny_model):
    with pytest.raises(InputError, match="list of strings"):
        Encoder.from_pretrained(tiny_model).encode_query("text")


def test_bos_switched_on_is_refused(tiny_model_of):
    directory = tiny_model_of()
    dataclasses.replace(Manifest.load(directory), add_special_tokens=True).save(directory)
    with pytest.raises(IncompatibleError, match="golden query"):
        Encoder.from_pretrained(directory)


@pytest.mark.parametrize(
    "change", [{"query_prefix": "query: "}, {"lowercase": False}, {"logit_shift": -1.5}]
)
def test_another_convention_is_refused(tiny_model_of, change):
    directory = tiny_model_of()
    dataclasses.replace(Manifest.load(directory), **change).save(directory)
    with pytest.raises(IncompatibleError, match="golden"):
        Encoder.from_pretrained(directory)


def test_another_tokenizer_is_refused(tiny_model_of):
    directory = tiny_model_of()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["photosynthesis"])
    tokenizer.save_pretrained(directory)
    with pytest.raises(IncompatibleError, match="files of its tokenizer changed"):
        Encoder.from_pretrained(directory)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "int3"}, "quantization is 'int3'"),
        ({"threads": 0}, "threads is 0"),
        ({"manifest": Manifest()}, "leave out manifest"),
        pytest.param(
            {"device": "cuda"},
            "torch sees 0 CUDA devices",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_refuses_options(tiny_model, options, message):
    with pytest.raises(InputError, match=message):
        Encoder.from_pretrained(tiny_model, **options)


def test_refuses_a_path_that_is_no_model(tmp_path):
    with pytest.raises(CorruptError, match="not a model directory"):
        Encoder.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="no such directory"):
        Encoder.from_pretrained(tmp_path / "nothing")


def test_a_causal_lm_without_manifest_loads_with_one_given(tiny_model_of):
    directory = tiny_model_of()
    manifest = Manifest.load(directory)
    (directory / "csplade.json").unlink()
    encoder = Encoder.from_pretrained(
        directory, manifest=dataclasses.replace(manifest, vocabulary_size=0)
    )
    assert encoder.vocabulary_size == manifest.vocabulary_size


@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4"])
def test_quantized_weights_are_smaller_and_vectors_close(tiny_model, quantization):
    plain = Encoder.from_pretrained(tiny_model, quantization="none")
    packed = Encoder.from_pretrained(tiny_model, quantization=quantization)
    sizes = [
        sum(
            p.numel() * p.element_size()
            for n, p in e.network.body.named_parameters()
            if "proj" in n
        )
        for e in (plain, packed)
    ]
    assert sizes[1] <= sizes[0] / (1.9 if quantization == "int8" else 3.5)
    dense = np.zeros((2, plain.vocabulary_size))
    for row, encoder in enumerate((plain, packed)):
        terms, weights = encoder.encode_document([TEXTS[3]]).row(0)
        dense[row, terms] = weights
    cosine = dense[0] @ dense[1] / np.linalg.norm(dense[0]) / np.linalg.norm(dense[1])
    assert 0.85 < cosine < 1.0


@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4"])
def test_a_packed_head_is_counted_and_vectors_stay_close(tiny_model, quantization):
    plain, body, whole = (
        Encoder.from_pretrained(tiny_model, **options)
        for options in (
            {"quantization": "none"},
            {"quantization": quantization},
            {"quantization": quantization, "quantize_head": True},
        )
    )
    # The tiny model's head is its embedding too, which stays as it is: packed rows come on top.
    values = plain.vocabulary_size * 64
    scales = 4 * (plain.vocabulary_size if quantization == "int8" else values // 64)
    assert (
        whole.weight_bytes - body.weight_bytes
        == values // (1 if quantization == "int8" else 2) + scales
    )
    assert body.weight_bytes < plain.weight_bytes
    vectors = [one.encode_document([TEXTS[3]]).row(0) for one in (plain, whole)]
    dense = np.zeros((2, plain.vocabulary_size))
    for row, (terms, weights) in zip(dense, vectors, strict=True):
        row[terms] = weights
    cosine = dense[0] @ dense[1] / np.linalg.norm(dense[0]) / np.linalg.norm(dense[1])
    assert 0.85 < cosine < 1.0


def test_a_quantization_that_the_device_cannot_do_is_one_line(tiny_model, monkeypatch):
    def refuse(*_):
        raise NotImplementedError("no kernel for this\nsecond line")

    monkeypatch.setattr("csplade.model.checkpoint.load.quantize_linears", refuse)
    with pytest.raises(
        UnavailableError,
        match="quantization nf4 does not run on cpu: no kernel for this; choose another",
    ) as caught:
        Encoder.from_pretrained(tiny_model, device="cpu", quantization="nf4")
    assert "\n" not in str(caught.value)


def test_quantization_without_its_library_says_what_to_install(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UnavailableError, match=r"int8 needs bitsandbytes .*pip install"):
        Encoder.from_pretrained(tiny_model, quantization="int8")


@pytest.mark.parametrize("device", ["tpu", "cuda:x"])
def test_refuses_unknown_devices(tiny_model, device):
    with pytest.raises(InputError, match=f"device: '{device}' is unknown"):
        Encoder.from_pretrained(tiny_model, device=device)


def test_weights_that_are_not_finite_are_an_error_not_an_empty_vector(tiny_model, monkeypatch):
    encoder = Encoder.from_pretrained(tiny_model)
    forward = type(encoder.network).forward

    def overflow(self, *args, **options):
        weights = forward(self, *args, **options)
        weights[0, :3] = torch.tensor([torch.nan, torch.inf, 1.0])
        return weights

    monkeypatch.setattr(type(encoder.network), "forward", overflow)
    with pytest.raises(CorruptError, match="2 weights of 1 texts are not finite"):
        encoder.encode_document(["one", "two"])


@pytest.mark.parametrize(
    ("free", "reserved", "chosen"),
    [(10_000_000, 0, "none"), (100_000, 0, "nf4"), (10_000_000, 9_900_000, "nf4")],
)
def test_quantization_goes_by_the_memory_that_is_free(
    tiny_model, monkeypatch, free, reserved, chosen
):
    from csplade.model.checkpoint.layout import find
    from csplade.model.quantization import choose_quantization

    checkpoint = find(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert checkpoint.parameters() == sum(p.numel() for p in model.parameters())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    assert choose_quantization(checkpoint, "cuda:0", reserved) == chosen
    assert choose_quantization(checkpoint, "cpu", reserved) == "none"


def test_tokens_are_all_terms_in_order(tiny_model):
    encoder = Encoder.from_pretrained(tiny_model)
    assert encoder.tokens() == [encoder.token(term) for term in range(encoder.vocabulary_size)]


def test_batches_take_no_more_than_their_share_of_the_working_memory(tiny_model):
    encoder = Encoder.from_pretrained(tiny_model)
    texts = ["one two three", "four five six", "seven eight nine", "ten", "eleven"]
    longest = int(encoder.tokenize(texts, "document").lengths.max())
    share = encoder.network.batch_bytes(2 * longest, 2)
    bounded = Encoder.from_pretrained(tiny_model, memory=WorkingMemory(3 * share))
    batches = []
    found = bounded.encode_document(texts, progress=batches.append)
    assert batches[0] == 2
    assert sum(batches) == 5
    assert len(batches) > 2
    whole = []
    truth = encoder.encode_document(texts, progress=whole.append)
    assert whole == [5]
    np.testing.assert_array_equal(found.terms, truth.terms)
    np.testing.assert_allclose(found.weights, truth.weights, rtol=1e-4)
    tiny = Encoder.from_pretrained(tiny_model, memory=WorkingMemory(3))
    assert len(tiny.encode_document(texts)) == 5  # a text is the smallest batch
