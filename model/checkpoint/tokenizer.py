"""Read and check the tokenizer of a checkpoint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import tokenizers

from ...core.errors import CorruptError, IncompatibleError, InputError
from ...core.files import write_aside
from ..tokenizer import Tokenizer
from .layout import find, first_line, read_json
from .manifest import Manifest

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
# Whatever a tokenizer of transformers may be read from.
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    SETTINGS_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def load_tokenizer(directory: Path, manifest: Manifest) -> Tokenizer:
    """Read the model's tokenizer, or its base's, and check it against the manifest.

    Raises:
        CorruptError: no readable tokenizer.
        IncompatibleError: the tokenizer has another vocabulary, or tokens that the head has no term
            for.
    """
    source = find(directory, manifest).tokenizer
    tokenizer = read_plain(source) if manifest.plain_tokenizer else read_tokenizer(source)
    check_tokenizer(tokenizer, manifest, directory)
    return tokenizer


def check_tokenizer(tokenizer: Tokenizer, manifest: Manifest, directory: Path) -> None:
    """Raise IncompatibleError where the vocabulary is not the manifest's, or the head is smaller."""
    found = vocabulary_hash(tokenizer)
    if manifest.vocabulary_hash and found != manifest.vocabulary_hash:
        raise IncompatibleError(
            f"{directory}: tokenizer vocabulary {found[:12]}, manifest says "
            f"{manifest.vocabulary_hash[:12]}"
        )
    largest = max(tokenizer.vocabulary().values())
    if manifest.vocabulary_size and largest >= manifest.vocabulary_size:
        raise IncompatibleError(
            f"{directory}: the tokenizer has token id {largest}, the model "
            f"{manifest.vocabulary_size} terms; it is another model's tokenizer"
        )


def read_tokenizer(source: Path) -> Tokenizer:
    """Read a tokenizer as transformers reads it.

    Raises:
        CorruptError: no readable tokenizer, or one that the ``tokenizers`` library does not run.
    """
    from transformers import AutoTokenizer

    try:
        read: Any = AutoTokenizer.from_pretrained(source)
        backend = read.backend_tokenizer
    except Exception as error:
        raise CorruptError(
            f"{source}: no tokenizer can be loaded: {first_line(error)}; where a checkpoint has "
            "none, give its base's: csplade model certify DIR --tokenizer BASE"
        ) from None
    return Tokenizer(
        backend, end=read.eos_token_id, unknown=read.unk_token_id, max_tokens=read.model_max_length
    )


def read_plain(source: Path) -> Tokenizer:
    """Read ``tokenizer.json`` as it stands; right where :func:`is_plain` says so.

    Raises:
        CorruptError: no readable ``tokenizer.json``.
    """
    path, settings = source / TOKENIZER_FILE, source / SETTINGS_FILE
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        raise CorruptError(f"{path}: not readable: {first_line(error)}") from None
    named = read_json(settings) if settings.is_file() else {}

    def special(name: str) -> int | None:
        token = named.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        return None if content is None else backend.token_to_id(content)

    return Tokenizer(backend, end=special("eos_token"), unknown=special("unk_token"))


def is_plain(tokenizer: Tokenizer, source: Path) -> bool:
    """Return whether the ``tokenizer.json`` of a directory gives this tokenizer as it stands.

    transformers changes some tokenizers while it reads them, after what the other files say.
    """
    return (source / TOKENIZER_FILE).is_file() and (
        read_plain(source).to_json() == tokenizer.to_json()
    )


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Copy the files of a tokenizer into a directory that has none.

    Raises:
        InputError: the directory has such a file already.
    """
    files = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    if there := [file.name for file in files if (directory / file.name).exists()]:
        raise InputError(f"{directory}: has {there[0]} already; leave out tokenizer")
    for file in files:
        with write_aside(directory / file.name, "wb") as copy:
            copy.write(file.read_bytes())


def vocabulary_hash(tokenizer: Tokenizer) -> str:
    """Return the SHA-256 over the (token, id) pairs of a tokenizer."""
    pairs = sorted(tokenizer.vocabulary().items(), key=lambda pair: pair[1])
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=False).encode()).hexdigest()
