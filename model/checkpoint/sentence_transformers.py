"""SparseEncoder directories of sentence-transformers: their modules, and settings that matter.

A setting that this program does not know may change the ranking, so it is an error unless it is
empty.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ...core.errors import CorruptError, InputError
from .files import IDF_FILE, read_json

MODULES_FILE = "modules.json"

_MODEL_KEYS = {
    "__version__",
    "default_prompt_name",
    "max_active_dims",
    "model_type",
    "prompts",
    "similarity_fn_name",
}
_TRANSFORMER_KEYS = {
    "max_seq_length",
    "do_lower_case",
    "transformer_task",
    "modality_config",
    "module_output_name",
    "unpad_inputs",
    "query_length",
    "document_length",
}
_POOLING_KEYS = {
    "pooling_strategy",
    "activation_function",
    "embedding_dimension",
    "word_embedding_dimension",
    "chunk_size",
}
_TABLE_KEYS = {"frozen", "path"}
_ROUTER_KEYS = {"default_route", "allow_empty_key"}

Modules = list[tuple[str, Path]]
"""(class, directory) of each module of a route."""


def read_routes(directory: Path) -> tuple[Modules, Modules]:
    """Return the modules of the query route, empty without a Router, and of the document route.

    Raises:
        InputError: modules that are not a sparse encoder's.
        CorruptError: a file that is not readable.
    """
    modules = _modules(directory)
    queries: Modules = []
    if [name for name, _ in modules] == ["Router"]:
        ((_, place),) = modules
        path = place / "router_config.json"
        router = read_json(path)
        check_keys(path, router.get("parameters") or {}, _ROUTER_KEYS)
        try:
            routes = {
                side: [(router["types"][name].rsplit(".", 1)[-1], place / name) for name in names]
                for side, names in router["structure"].items()
            }
        except (KeyError, AttributeError, TypeError) as error:
            raise CorruptError(f"{path}: not readable as a router: {error!r}") from None
        queries, modules = routes.get("query", []), routes.get("document", [])
        if [name for name, _ in queries] != ["SparseStaticEmbedding"]:
            raise InputError(
                f"{directory}: its query route is {_named(queries)}; only SparseStaticEmbedding "
                "is supported there, a second model for queries is not"
            )
    if [name for name, _ in modules] not in (
        ["MLMTransformer", "SpladePooling"],
        ["Transformer", "SpladePooling"],
    ):
        raise InputError(
            f"{directory}: its modules are {_named(modules)}, must be a masked-LM transformer and "
            "SpladePooling"
        )
    return queries, modules


def model_settings(directory: Path) -> dict[str, Any]:
    """Return ``config_sentence_transformers.json``: prompts, similarity, caps."""
    return _settings(directory / "config_sentence_transformers.json", _MODEL_KEYS)


def transformer_settings(module: Path) -> dict[str, Any]:
    """Return ``sentence_bert_config.json`` of a transformer module: its limits.

    Raises:
        InputError: a task or an output that is not a masked LM's logits, or an unknown setting.
    """
    path = module / "sentence_bert_config.json"
    settings = _settings(path, _TRANSFORMER_KEYS)
    for name, allowed in (
        ("transformer_task", "fill-mask"),
        ("module_output_name", "token_embeddings"),
    ):
        if settings.get(name, allowed) != allowed:
            raise InputError(f"{path}: {name} is {settings[name]!r}, must be {allowed!r}")
    for modality, how in (settings.get("modality_config") or {}).items():
        if modality != "text" or how.get("method_output_name", "logits") != "logits":
            raise InputError(
                f"{path}: modality_config has {modality!r}: {how}, must be text with logits alone"
            )
    return settings


def pooling_settings(module: Path) -> dict[str, Any]:
    """Return the configuration of a ``SpladePooling`` module."""
    path = module / "config.json"
    settings: dict[str, Any] = read_json(path)
    check_keys(path, settings, _POOLING_KEYS)
    return settings


def find_table(module: Path, directory: Path) -> Path:
    """Return the weights of a ``SparseStaticEmbedding`` module: a tensor, or an IDF file.

    Raises:
        CorruptError: there is none.
    """
    path = module / "config.json"
    settings = _settings(path, _TABLE_KEYS)
    named = Path(settings.get("path") or "")
    tables = [module / "model.safetensors", directory / IDF_FILE]
    if named.suffix == ".json":
        tables = [named, module / named.name, directory / named.name, *tables]
    for table in tables:
        if table.is_file():
            return table
    raise CorruptError(f"{module}: no model.safetensors in it, and no {IDF_FILE} in {directory}")


def prompts(settings: dict[str, Any]) -> dict[str, str]:
    """Return the prompts that ``encode_query`` and ``encode_document`` choose."""
    named: dict[str, str | None] = settings.get("prompts") or {}
    default = named.get(settings.get("default_prompt_name") or "")

    def first(*names: str) -> str:
        return next((named[name] for name in names if name in named), default) or ""

    return {"query": first("query"), "document": first("document", "passage", "corpus")}


def check_keys(path: Path, settings: dict[str, Any], known: Collection[str]) -> None:
    """Raise InputError on a setting that is not known and not empty."""
    for name, value in settings.items():
        if name not in known and value not in (None, False, "", [], {}):
            raise InputError(
                f"{path}: {name} is {value!r}, which this program does not know; it may change "
                f"the ranking; allowed {', '.join(sorted(known))}"
            )


def _settings(path: Path, known: Collection[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    settings: dict[str, Any] = read_json(path)
    check_keys(path, settings, known)
    return settings


def _modules(directory: Path) -> Modules:
    path = directory / MODULES_FILE
    try:
        return [
            (entry["type"].rsplit(".", 1)[-1], directory / entry["path"])
            for entry in read_json(path)
        ]
    except (KeyError, AttributeError, TypeError) as error:
        raise CorruptError(f"{path}: not readable as a list of modules: {error!r}") from None


def _named(modules: Modules) -> str:
    return " and ".join(name for name, _ in modules) or "empty"
