"""Hashes of what a model's files say, for its manifest.

A key that changes no vector is left out, so that a file may be written again by another version of
its library; an unknown key counts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ...core.files import file_sha256
from . import base
from .files import ADAPTER_FILE, check_fetched, read_json
from .layout import Checkpoint
from .manifest import Manifest
from .tokenizer import SETTINGS_FILE, TOKENIZER_FILE, TOKENIZER_FILES

_NOT_COMPUTING = {
    "_name_or_path", "_model_name_or_path", "auto_map", "bos_token_id", "chunk_size_feed_forward",
    "dtype", "eos_token_id", "finetuning_task", "gradient_checkpointing", "id2label",
    "initializer_range", "keys_to_ignore_at_inference", "label2id", "output_attentions",
    "output_hidden_states", "problem_type", "return_dict", "sep_token_id", "task_specific_params",
    "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip
_NOT_MERGED = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights",
    "init_weights", "lora_dropout", "module_dropout", "peft_version", "revision", "runtime_config",
    "task_type",
}  # fmt: skip
_NOT_TOKENIZING = {
    "added_tokens_decoder", "auto_map", "backend", "chat_template", "clean_up_tokenization_spaces",
    "is_local", "local_files_only", "max_length", "model_input_names", "model_max_length",
    "name_or_path", "pad_to_multiple_of", "pad_token_type_id", "padding_side", "processor_class",
    "stride", "tokenizer_file", "trust_remote_code", "truncation_strategy",
    "vocab_file",
}  # fmt: skip


def weights_hash(checkpoint: Checkpoint, manifest: Manifest) -> str:
    """Return the SHA-256 over names and contents of all weight files.

    The published base counts by the hash of its source.
    """
    named = {key: value for key, value in manifest.base.items() if key != "path"}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode())
    for path in checkpoint.weight_files():
        check_fetched(path)
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def config_hash(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 over what ``config.json`` and ``adapter_config.json`` say of computing."""
    parts: list[Any] = []
    if not checkpoint.published_base:
        parts.append(_without(checkpoint.config, _NOT_COMPUTING))
    if checkpoint.adapter is not None:
        parts.append(_without(read_json(checkpoint.adapter / ADAPTER_FILE), _NOT_MERGED))
    return _digest(parts)


def tokenizer_hash(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 over the files of the tokenizers, empty for the published base's."""
    places = dict.fromkeys((checkpoint.tokenizer, checkpoint.query_tokenizer))
    found = [
        _tokenizer_files(place)
        for place in places
        if place is not None and place != base.base_directory()
    ]
    return _digest(found) if found else ""


def _tokenizer_files(directory: Path) -> dict[str, Any]:
    """Return what each file says: JSON without keys that change no ids, else a hash."""
    found: dict[str, Any] = {}
    whole = (directory / TOKENIZER_FILE).is_file()
    for name in TOKENIZER_FILES:
        path = directory / name
        if not path.is_file():
            continue
        if name == TOKENIZER_FILE:
            # Padding and truncation are the encoder's own.
            found[name] = _without(read_json(path), {"padding", "truncation", "version"})
        elif name == SETTINGS_FILE:
            found[name] = _without(read_json(path), _NOT_TOKENIZING)
        elif path.suffix == ".json" and name not in ("vocab.json",):
            found[name] = read_json(path)
        elif not whole:
            found[name] = file_sha256(path)
    return found


def _without(value: Any, names: set[str]) -> Any:
    """Return JSON without some keys, at the top and in nested configurations (``text_config``)."""
    if not isinstance(value, dict):
        return value
    return {
        key: _without(held, names) if key.endswith("_config") else held
        for key, held in value.items()
        if key not in names
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
