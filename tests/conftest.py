"""Fixtures that every folder of tests uses."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# Without a GPU, Triton kernels are interpreted on the CPU; kernels/runtime/launch.py tells why this stands before anything imports triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

WORDS = [
    "a search engine finds documents for a question and says which words made each hit",
    "what does the river need to work well, and where is the engine of the old harbour?",
    "rain falls on the mountains; the glacier feeds a river that reaches the sea near the town",
    "bread rises when yeast turns sugar into gas, and the oven sets the dough",
    "the term weights of a text are kept as integers, one impact for each posting in a block",
]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random causal LM of two layers with tokenizer, manifest and golden vectors, made in a second."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a fresh tiny model with manifest values of one's own; the directory is the test's to spoil."""
    return lambda **values: make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", **values)


def make_tiny_model(directory: Path, **manifest_values: object) -> Path:
    from dataclasses import replace

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from csplade.model import Manifest
    from csplade.model.checkpoint.load import vocabulary_hash, weights_hash
    from csplade.model.golden import TEXTS, certify

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([*(text for _, text in TEXTS), *WORDS], trainer)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.08,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    wrapped.save_pretrained(directory)
    manifest = Manifest(
        **{
            "variant": "bidirectional",
            "logit_scale": 0.5,
            "logit_shift": 0.0,
            "lowercase": True,
            "query_max_tokens": 32,
            "document_max_tokens": 64,
            "query_max_terms": 256,
            "document_max_terms": 400,
            "vocabulary_size": len(wrapped),
            "vocabulary_hash": vocabulary_hash(wrapped),
            **manifest_values,
        }
    )
    replace(manifest, weights_hash=weights_hash(directory, manifest)).save(directory)
    certify(directory)
    return directory
