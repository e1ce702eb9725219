"""Read and check the tokenizer of a checkpoint."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import tokenizers

from ...core.errors import CorruptError, IncompatibleError, InputError
from ...core.files import write_aside
from ..tokenizer import Tokenizer
from .files import check_fetched, first_line, read_json
from .layout import Checkpoint, find
from .manifest import Manifest

log = logging.getLogger(__name__)

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


def load_tokenizers(checkpoint: Checkpoint, manifest: Manifest) -> tuple[Tokenizer, Tokenizer]:
    """Read the tokenizers of queries and of documents, most often one, and check them.

    Raises:
        CorruptError: no readable tokenizer.
        IncompatibleError: another vocabulary than the manifest says, or two of a kind.
    """
    read = read_plain if manifest.plain_tokenizer else read_tokenizer
    documents = read(checkpoint.tokenizer)
    check_tokenizer(documents, manifest, checkpoint.directory)
    if checkpoint.query_tokenizer in (None, checkpoint.tokenizer):
        return documents, documents
    assert checkpoint.query_tokenizer is not None
    queries = read(checkpoint.query_tokenizer)
    if queries.vocabulary() != documents.vocabulary():
        raise IncompatibleError(
            f"{checkpoint.query_tokenizer}: the tokenizer of queries has another vocabulary than "
            f"that of documents in {checkpoint.tokenizer}, so their terms cannot be compared"
        )
    return queries, documents


def load_tokenizer(directory: Path, manifest: Manifest) -> Tokenizer:
    """Read the tokenizer of documents of a model directory, see :func:`load_tokenizers`."""
    return load_tokenizers(find(directory, manifest), manifest)[1]


def check_tokenizer(tokenizer: Tokenizer, manifest: Manifest, directory: Path) -> None:
    """Check the vocabulary against the manifest.

    Tokens without a term of the model are allowed where they were added to the tokenizer, see
    :func:`..tokens.tokenize`.

    Raises:
        IncompatibleError: another vocabulary, or ordinary tokens that the head has no term for.
    """
    found = vocabulary_hash(tokenizer)
    if manifest.vocabulary_hash and found != manifest.vocabulary_hash:
        raise IncompatibleError(
            f"{directory}: tokenizer vocabulary {found[:12]}, manifest says "
            f"{manifest.vocabulary_hash[:12]}"
        )
    size = manifest.vocabulary_size
    beyond = [token for token, term in tokenizer.vocabulary().items() if 0 < size <= term]
    ordinary = set(beyond) - set(tokenizer.added_tokens())
    if ordinary:
        raise IncompatibleError(
            f"{directory}: the tokenizer has {len(ordinary):,} tokens beyond the {size:,} terms of "
            f"the model, such as {min(ordinary)!r}; it is another model's tokenizer; give the "
            "right one: --tokenizer DIR or hub id"
        )
    if beyond:
        log.warning(
            "%s: the tokenizer has %d added tokens beyond the %d terms of the model, such as %r; "
            "a text that holds one cannot be encoded",
            *(directory, len(beyond), size, min(beyond)),
        )


def read_tokenizer(source: Path) -> Tokenizer:
    """Read a tokenizer as transformers reads it.

    Raises:
        CorruptError: no readable tokenizer, or one that the ``tokenizers`` library does not run.
    """
    from transformers import AutoTokenizer

    from .quiet import quiet

    for name in TOKENIZER_FILES:
        check_fetched(source / name)
    try:
        with quiet():
            read: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        backend = read.backend_tokenizer
    except Exception as error:
        raise CorruptError(
            f"{source}: no tokenizer can be loaded: {first_line(error)}; where a checkpoint has "
            "none, give its base's: csplade model certify DIR --tokenizer BASE"
        ) from None
    return Tokenizer(
        backend,
        end=read.eos_token_id,
        unknown=read.unk_token_id,
        max_tokens=read.model_max_length,
        keeps_end=read.truncation_side == "left",
    )


def read_plain(source: Path) -> Tokenizer:
    """Read ``tokenizer.json`` as it stands; right where :func:`is_plain` says so.

    Raises:
        CorruptError: no readable ``tokenizer.json``.
    """
    path, settings = source / TOKENIZER_FILE, source / SETTINGS_FILE
    check_fetched(path)
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        raise CorruptError(f"{path}: not readable: {first_line(error)}") from None
    named = read_json(settings) if settings.is_file() else {}

    def special(name: str) -> int | None:
        token = named.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        return None if content is None else backend.token_to_id(content)

    return Tokenizer(
        backend,
        end=special("eos_token"),
        unknown=special("unk_token"),
        keeps_end=named.get("truncation_side") == "left",
    )


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
