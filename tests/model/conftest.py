"""Small random checkpoints in the file layout of each family that can be loaded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

CORPUS = [
    "how do plants turn sunlight into energy and where does the water of the river come from",
    "a hash table maps keys to buckets; a good hash function spreads them evenly",
    "bread rises when yeast turns sugar into gas, and the oven sets the dough",
    "rain falls on the mountains, the glacier feeds a river that reaches the sea",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="session")
def word_pieces() -> PreTrainedTokenizerFast:
    """An uncased WordPiece tokenizer, as BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=260, special_tokens=SPECIAL)
    )
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
    )


@pytest.fixture(scope="session")
def byte_pairs() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that puts a BOS before every text, as Llama 3's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


@pytest.fixture
def masked_lm(tmp_path: Path, word_pieces: PreTrainedTokenizerFast) -> Callable[..., Path]:
    """Writes a BERT or DistilBERT for masked language modelling, with random biases and layer
    norms.
    """

    def write(
        kind: str = "bert", directory: Path = tmp_path / "masked", bins: bool = False
    ) -> Path:
        torch.manual_seed(11)
        size = len(word_pieces)
        if kind == "bert":
            config = BertConfig(
                vocab_size=size,
                hidden_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=96,
                max_position_embeddings=40,
                initializer_range=0.25,
            )
            model = BertForMaskedLM(config)
        else:
            config = DistilBertConfig(
                vocab_size=size,
                dim=48,
                n_layers=2,
                n_heads=4,
                hidden_dim=96,
                max_position_embeddings=40,
                initializer_range=0.25,
            )
            model = DistilBertForMaskedLM(config)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, std=0.5)
        model.save_pretrained(directory)
        if bins:  # as older checkpoints have it
            torch.save(model.state_dict(), directory / "pytorch_model.bin")
            (directory / "model.safetensors").unlink()
        word_pieces.save_pretrained(directory)
        return directory

    return write


@pytest.fixture
def causal_lm(tmp_path: Path, byte_pairs: PreTrainedTokenizerFast) -> Callable[..., Path]:
    """Writes a Llama, its vocabulary larger than its tokenizer's."""

    def write(
        directory: Path = tmp_path / "causal", tokenizer: bool = True, hidden: int = 48
    ) -> Path:
        torch.manual_seed(12)
        config = LlamaConfig(
            vocab_size=len(byte_pairs) + 24,
            hidden_size=hidden,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.25,
            tie_word_embeddings=False,
        )
        LlamaForCausalLM(config).save_pretrained(directory)
        if tokenizer:
            byte_pairs.save_pretrained(directory)
        return directory

    return write


@pytest.fixture
def adapter(tmp_path: Path, causal_lm: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a PEFT adapter with weights of its own over a fresh base, and the class it was trained
    on if one is named.
    """

    def write(trained_class: str | None = None, base: Path | None = None) -> Path:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        base = base or causal_lm(tmp_path / "base")
        torch.manual_seed(13)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base),
            LoraConfig(
                r=4,
                lora_alpha=8,
                target_modules=["q_proj", "v_proj", "down_proj"],
                init_lora_weights=False,
            ),
        )
        directory = tmp_path / "adapter"
        model.save_pretrained(str(directory))
        path = directory / "adapter_config.json"
        settings = json.loads(path.read_text())
        settings["base_model_name_or_path"] = str(base)
        settings["auto_mapping"] = trained_class and {
            "base_model_class": trained_class,
            "parent_library": "scaling_retriever.modeling.bidirectional_llama",
        }
        path.write_text(json.dumps(settings))
        return directory

    return write


@pytest.fixture
def sparse_encoder(
    masked_lm: Callable[..., Path], word_pieces: PreTrainedTokenizerFast
) -> Callable[..., Path]:
    """Adds to a masked LM what makes it a SparseEncoder directory, as the hub's have it: by hand,
    with the old names.
    """

    def write(
        pooling: str = "max",
        activation: str = "relu",
        inference_free: bool = False,
        kind: str = "distilbert",
    ) -> Path:
        directory = masked_lm(kind)
        prefix = "sentence_transformers.sparse_encoder.models."
        head = "document_1_SpladePooling" if inference_free else "1_SpladePooling"
        (directory / head).mkdir()
        values = {
            "pooling_strategy": pooling,
            "activation_function": activation,
            "word_embedding_dimension": None,
        }
        (directory / head / "config.json").write_text(json.dumps(values))
        (directory / "sentence_bert_config.json").write_text(
            '{"max_seq_length": 24, "do_lower_case": false}'
        )
        modules = [
            {"idx": 0, "name": "0", "path": "", "type": prefix + "MLMTransformer"},
            {"idx": 1, "name": "1", "path": head, "type": prefix + "SpladePooling"},
        ]
        prompts = {"query": "river: ", "document": ""}
        if inference_free:
            prompts = {"query": "", "document": ""}
            queries = directory / "query_0_SparseStaticEmbedding"
            word_pieces.save_pretrained(queries)
            torch.manual_seed(14)
            save_file({"weight": torch.rand(len(word_pieces)) * 6}, queries / "model.safetensors")
            (queries / "config.json").write_text('{"frozen": true}')
            router = {
                "types": {
                    queries.name: prefix + "SparseStaticEmbedding",
                    "": prefix + "MLMTransformer",
                    head: prefix + "SpladePooling",
                },
                "structure": {"query": [queries.name], "document": ["", head]},
                "parameters": {"default_route": "document", "allow_empty_key": True},
            }
            (directory / "router_config.json").write_text(json.dumps(router))
            modules = [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Router"}
            ]
        (directory / "modules.json").write_text(json.dumps(modules))
        settings = {
            "model_type": "SparseEncoder",
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "dot",
        }
        (directory / "config_sentence_transformers.json").write_text(json.dumps(settings))
        return directory

    return write
