"""Where the parts of a model directory lie: whole weights, adapter, tokenizer, table of query
weights. Files alone tell.

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
from . import base
from .manifest import Manifest

EMBEDDED = Path(__file__).parent.parent / "embedded"
ADAPTER_FILE = "adapter_config.json"
MODULES_FILE = "modules.json"
IDF_FILE = "idf.json"
TABLE_FILE = "query_weights.safetensors"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt")
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
class Checkpoint:
    """Parts of a model.

    Attributes:
        directory: what was asked for.
        weights: directory of ``config.json`` and whole weights; the base's where there is an
            adapter.
        tokenizer: directory of the tokenizer.
        adapter: directory of a PEFT adapter to merge into the weights.
        table: file of query weights (safetensors), or an ``idf.json``.
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
    pooling: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The transformers configuration as it stands in its file."""
        return read_json(self.weights / "config.json")

    def weight_files(self) -> list[Path]:
        """Files that hold weights of any part, each once; the safetensors where both kinds are
        there.
        """
        files: list[Path] = []
        for part in dict.fromkeys((self.weights, self.adapter)):
            if part is not None:
                files += sorted(part.glob("*.safetensors")) or sorted(part.glob("*.bin"))
        if self.table is not None and self.table not in files:
            files.append(self.table)
        return files

    def parameters(self) -> int:
        """Count the parameters in the weight files."""
        return sum(_parameters(path) for path in self.weight_files() if path != self.table)


def _parameters(path: Path) -> int:
    if path.suffix != ".safetensors":
        return path.stat().st_size // 2  # older files, most often of 16-bit weights
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        tensors: dict[str, Any] = json.loads(file.read(size))
    return sum(
        math.prod(tensor["shape"]) for name, tensor in tensors.items() if name != "__metadata__"
    )


def resolve(path_or_id: str | Path) -> Path:
    """The directory of a model: ``embedded``, a path, or a hub id that the local hub cache or the
    hub itself holds.

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
            f"model {str(path_or_id)!r}: no such directory, and no hub id of the form owner/name"
        )
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(path_or_id), ignore_patterns=list(_NOT_FETCHED)))
    except Exception as error:
        raise UnavailableError(
            f"model {str(path_or_id)!r}: the hub does not give it: {first_line(error)}; "
            "go online, or fetch it elsewhere and give its directory"
        ) from None


def find(directory: Path, manifest: Manifest | None = None) -> Checkpoint:
    """Find the parts of a model directory.

    Args:
        directory: the model.
        manifest: its ``csplade.json`` if it has one; says which published base an adapter belongs
            to.

    Raises:
        InputError: a sentence-transformers directory of modules that are not a sparse encoder's.
        CorruptError: a file that is not readable.
        UnavailableError: the base is out of reach.
        IncompatibleError: an adapter for a base that this program does not know.
    """
    table = next(
        (path for name in (TABLE_FILE, IDF_FILE) if (path := directory / name).is_file()), None
    )
    if (directory / MODULES_FILE).is_file():
        return _sentence_transformers(directory, table)
    adapter = directory if (directory / ADAPTER_FILE).is_file() else None
    weights = _base(directory, manifest, adapter)
    return Checkpoint(directory, weights, _tokenizer(directory, weights), adapter, table)


def read_json(path: Path) -> Any:
    """A JSON file of a checkpoint.

    Raises:
        CorruptError: not there, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CorruptError(
            f"{path.parent}: no {path.name} in it, so it is no model directory"
        ) from None
    except ValueError as error:
        raise CorruptError(f"{path}: not readable as JSON: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """What another library's error says, on one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _base(directory: Path, manifest: Manifest | None, adapter: Path | None) -> Path:
    if manifest is not None and manifest.base:
        if manifest.base.get("sha256") != base.WHEEL_SHA256:
            raise IncompatibleError(
                f"{directory}: base {manifest.base} is not the one known here, {base.NAME} "
                f"{base.WHEEL_SHA256}"
            )
        if not base.base_directory().is_dir():
            raise UnavailableError(
                f"{directory}: its base {base.NAME} is not in {base.cache_directory()}; run: "
                "csplade model pull"
            )
        return base.base_directory()
    if adapter is None:
        return directory
    name = read_json(adapter / ADAPTER_FILE).get("base_model_name_or_path")
    if not name:
        raise CorruptError(f"{adapter / ADAPTER_FILE}: base_model_name_or_path is empty")
    try:
        return resolve(name)
    except (InputError, UnavailableError) as error:
        raise UnavailableError(
            f"{directory}: the base of its adapter is out of reach: {error}"
        ) from None


def _tokenizer(directory: Path, weights: Path) -> Path:
    has = any((directory / name).is_file() for name in _TOKENIZER_FILES)
    return directory if has else weights


def _sentence_transformers(directory: Path, table: Path | None) -> Checkpoint:
    modules = [
        (entry["type"].rsplit(".", 1)[-1], directory / entry["path"])
        for entry in read_json(directory / MODULES_FILE)
    ]
    queries: list[tuple[str, Path]] = []
    if [name for name, _ in modules] == ["Router"]:
        ((_, place),) = modules
        router = read_json(place / "router_config.json")
        routes = {
            side: [(router["types"][name].rsplit(".", 1)[-1], place / name) for name in names]
            for side, names in router["structure"].items()
        }
        queries, modules = routes.get("query", []), routes.get("document", [])
        if [name for name, _ in queries] != ["SparseStaticEmbedding"]:
            raise InputError(
                f"{directory}: its query route is {_named(queries)}; only SparseStaticEmbedding "
                "is supported there, "
                "a second model for queries is not"
            )
    if [name for name, _ in modules] not in (
        ["MLMTransformer", "SpladePooling"],
        ["Transformer", "SpladePooling"],
    ):
        raise InputError(
            f"{directory}: its modules are {_named(modules)}, must be a masked-LM transformer and "
            "SpladePooling"
        )
    weights = modules[0][1]
    limits = weights / "sentence_bert_config.json"
    settings = directory / "config_sentence_transformers.json"
    if queries:
        table = next(
            (
                path
                for path in (queries[0][1] / "model.safetensors", table)
                if path and path.is_file()
            ),
            None,
        )
        if table is None:
            raise CorruptError(
                f"{queries[0][1]}: no model.safetensors in it, and no {IDF_FILE} in {directory}"
            )
    return Checkpoint(
        directory,
        weights,
        weights,
        table=table if queries else None,
        pooling=read_json(modules[1][1] / "config.json"),
        prompts=_prompts(read_json(settings)) if settings.is_file() else {},
        limits=read_json(limits) if limits.is_file() else {},
    )


def _named(modules: list[tuple[str, Path]]) -> str:
    return " and ".join(name for name, _ in modules) or "empty"


def _prompts(settings: dict[str, Any]) -> dict[str, str]:
    """As ``encode_query`` and ``encode_document`` choose them."""
    prompts = settings.get("prompts") or {}
    return {side: prompts.get(side) or "" for side in ("query", "document")}
