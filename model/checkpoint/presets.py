"""Presets: how checkpoints without a ``csplade.json`` are used, family by family.

The files of a checkpoint select its preset. Two families cannot be recognized by their files, which
say nothing of how they are used (LACONIC is a plain causal LM): their hub id selects the preset, or
the user does. Where nothing does, loading fails and lists the presets; it never guesses.

Conventions from the families' own code and model cards: naver/splade, HansiZeng/scaling-retriever
(Lion), texttron/tevatron ``examples/laconic``, opensearch-project model cards,
sentence-transformers' ``SpladePooling`` and ``SparseStaticEmbedding``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...core.errors import IncompatibleError, InputError
from ..tokenizer import Tokenizer
from .files import ADAPTER_FILE, IDF_FILE, read_json
from .hashes import config_hash, tokenizer_hash, weights_hash
from .layout import Checkpoint, find, resolve, saved_rows
from .manifest import FILE_NAME, MAX_TERMS, Manifest
from .positions import positions
from .sentence_transformers import MODULES_FILE
from .tokenizer import load_tokenizers, vocabulary_hash

log = logging.getLogger(__name__)

MOST_TOKENS = 8192


@dataclass(frozen=True)
class Preset:
    """A family's conventions.

    Attributes:
        what: one line for people.
        architecture: ``causal_lm`` or ``masked_lm``; a checkpoint of the other kind is refused.
        values: manifest values of a checkpoint of this family, given its parts and its tokenizer.
        ids: beginnings of hub ids that are known to be of this family.
    """

    what: str
    architecture: Literal["causal_lm", "masked_lm"]
    values: Callable[[Checkpoint, Tokenizer], dict[str, Any]]
    ids: tuple[str, ...] = ()

    def manifest(self, checkpoint: Checkpoint, tokenizer: Tokenizer) -> Manifest:
        """Return the manifest of a checkpoint; :func:`read` fills in sizes and hashes."""
        return Manifest(architecture=self.architecture, **self.values(checkpoint, tokenizer))


def _csplade(variant: str) -> Callable[[Checkpoint, Tokenizer], dict[str, Any]]:
    return lambda checkpoint, tokenizer: {
        "variant": variant,
        "query_max_tokens": 64,
        "document_max_tokens": 256,
        "query_max_terms": 512,
        "document_max_terms": 512,
    }


def _lion(checkpoint: Checkpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "variant": "bidirectional",
        "logit_scale": checkpoint.config["hidden_size"] ** -0.25,
        "add_special_tokens": True,
        "query_max_tokens": 64,
        "document_max_tokens": 128,
        "query_max_terms": MAX_TERMS,
        "document_max_terms": MAX_TERMS,
    }


def _laconic(checkpoint: Checkpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "variant": "bidirectional",
        "query_prefix": "query: ",
        "document_prefix": "passage: ",
        "query_max_tokens": 256,
        "document_max_tokens": 256,
        "query_max_terms": 512,
        "document_max_terms": 512,
    }


def _splade(checkpoint: Checkpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    tokens = _most_tokens(checkpoint, tokenizer)
    return {
        "variant": "bidirectional",
        # CLS and SEP are pooled with the rest, as naver/splade and sentence-transformers do.
        "add_special_tokens": True,
        "query_max_tokens": tokens,
        "document_max_tokens": tokens,
        "query_max_terms": MAX_TERMS,
        "document_max_terms": MAX_TERMS,
    }


def _sentence_transformers(checkpoint: Checkpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    pooling = checkpoint.pooling.get("pooling_strategy", "max")
    if pooling != "max":
        raise InputError(
            f"{checkpoint.directory}: SpladePooling's pooling_strategy is {pooling!r}, only 'max' "
            "is supported: the head "
            "takes the maximum over tokens before it activates, a sum cannot be had that way"
        )
    activations = {"relu": "log1p_relu", "log1p_relu": "log1p_log1p_relu"}
    activation = checkpoint.pooling.get("activation_function", "relu")
    if activation not in activations:
        raise InputError(
            f"{checkpoint.directory}: SpladePooling's activation_function is {activation!r}, must "
            "be relu or log1p_relu"
        )
    similarity = checkpoint.settings.get("similarity_fn_name") or "dot"
    if similarity not in ("dot", "cosine"):
        raise InputError(
            f"{checkpoint.directory}: similarity_fn_name is {similarity!r}, must be dot or cosine"
        )
    terms = checkpoint.settings.get("max_active_dims") or MAX_TERMS
    limits = checkpoint.limits
    if limits.get("do_lower_case") and checkpoint.query_tokenizer is not None:
        raise InputError(
            f"{checkpoint.directory}: do_lower_case holds for documents alone, which is not "
            "supported; lower the case in tokenizer.json of the document route instead"
        )
    tokens = _most_tokens(checkpoint, tokenizer)
    return {
        **_splade(checkpoint, tokenizer),
        "activation": activations[activation],
        "normalize": similarity == "cosine",
        "lowercase": bool(limits.get("do_lower_case", False)),
        "query_prefix": checkpoint.prompts.get("query", ""),
        "document_prefix": checkpoint.prompts.get("document", ""),
        "query_encoder": "model" if checkpoint.table is None else "lexical",
        "query_max_tokens": min(limits.get("query_length") or tokens, tokens),
        "document_max_tokens": min(limits.get("document_length") or tokens, tokens),
        "query_max_terms": min(terms, MAX_TERMS),
        "document_max_terms": min(terms, MAX_TERMS),
    }


def _opensearch(activation: str) -> Callable[[Checkpoint, Tokenizer], dict[str, Any]]:
    return lambda checkpoint, tokenizer: {
        **_splade(checkpoint, tokenizer),
        "activation": activation,
        "query_encoder": "lexical",
        "excluded_terms": tuple(tokenizer.special_ids()),
    }


PRESETS: dict[str, Preset] = {
    "csplade": Preset(
        "causal LM as the CSPLADE paper uses it, causal attention", "causal_lm", _csplade("causal")
    ),
    "csplade-echo": Preset("the same, text given twice", "causal_lm", _csplade("echo")),
    "csplade-bidirectional": Preset(
        "the same, causal mask left out", "causal_lm", _csplade("bidirectional")
    ),
    "lion-sp": Preset(
        "Lion-SP: bidirectional, BOS kept, logits times hidden_size^-0.25",
        "causal_lm",
        _lion,
        ("hzeng/Lion-SP-",),
    ),
    "laconic": Preset(
        "LACONIC: bidirectional, no special tokens, query:/passage: prefixes, 512 terms",
        "causal_lm",
        _laconic,
        ("utahnlp/laconic-",),
    ),
    "splade": Preset(
        "masked-LM SPLADE, max pooling over all tokens (naver/splade)", "masked_lm", _splade
    ),
    "sentence-transformers": Preset(
        "SparseEncoder directory, as its modules.json says", "masked_lm", _sentence_transformers
    ),
    "opensearch-v2": Preset(
        "OpenSearch document encoder v1 or v2: log1p once, idf.json for queries",
        "masked_lm",
        _opensearch("log1p_relu"),
    ),
    "opensearch-v3": Preset(
        "OpenSearch document encoder v3: log1p twice, idf.json for queries",
        "masked_lm",
        _opensearch("log1p_log1p_relu"),
    ),
}


def choose(checkpoint: Checkpoint, model: str, forced: str | None = None) -> str:
    """Return the preset that a checkpoint without a manifest is loaded by.

    Args:
        checkpoint: its parts.
        model: what the user called it by; looked at only where the files do not tell.
        forced: the user's choice.

    Raises:
        InputError: an unknown preset, or none that can be recognized.
        IncompatibleError: neither a causal nor a masked LM, or not of the kind that the preset is
            for.
    """
    if forced is not None and forced not in PRESETS:
        raise InputError(f"preset is {forced!r}, must be one of {', '.join(PRESETS)}")
    kind = _architecture(checkpoint)
    name = forced or _told_by_files(checkpoint, kind) or _told_by_id(model)
    if name is None:
        raise InputError(
            f"{model}: has no csplade.json, and nothing in its files says how this "
            f"{kind.replace('_', ' ')} is used; "
            f"give a manifest or a preset, one of {', '.join(PRESETS)} (csplade model certify DIR "
            "--preset NAME)"
        )
    if PRESETS[name].architecture != kind:
        raise IncompatibleError(
            f"{model}: preset {name} is for a {PRESETS[name].architecture.replace('_', ' ')}, "
            f"this is a {kind.replace('_', ' ')}"
        )
    return name


def _told_by_files(checkpoint: Checkpoint, kind: str) -> str | None:
    if (checkpoint.directory / MODULES_FILE).is_file():
        return "sentence-transformers"
    if checkpoint.adapter is not None:
        # PEFT writes down the class that was trained; Lion's sparse and dense models have classes
        # of their own.
        trained = (read_json(checkpoint.adapter / ADAPTER_FILE).get("auto_mapping") or {}).get(
            "base_model_class", ""
        )
        if trained.endswith("BiModel"):
            raise IncompatibleError(
                f"{checkpoint.directory}: its adapter was trained on {trained}, which gives dense "
                "vectors, not sparse ones"
            )
        if trained.endswith("BiForMNTP"):
            return "lion-sp"
    if kind != "masked_lm":
        return None
    if (checkpoint.directory / IDF_FILE).is_file():
        raise InputError(
            f"{checkpoint.directory}: has {IDF_FILE} but no {MODULES_FILE}, and nothing says "
            "whether log1p is applied once "
            "(v1, v2) or twice (v3); give preset opensearch-v2 or opensearch-v3 (csplade model "
            "certify DIR --preset NAME)"
        )
    return "splade"


def _told_by_id(model: str) -> str | None:
    return next(
        (name for name, preset in PRESETS.items() if model.startswith(preset.ids or ("\0",))), None
    )


def _architecture(checkpoint: Checkpoint) -> str:
    """Return ``causal_lm`` or ``masked_lm``, by the class that the configuration names."""
    config = checkpoint.config
    for name in config.get("architectures") or ():
        if name.endswith("ForMaskedLM"):
            return "masked_lm"
        if name.endswith(("ForCausalLM", "LMHeadModel", "BiForMNTP")):
            return "causal_lm"
    raise IncompatibleError(
        f"{checkpoint.weights}: architectures is {config.get('architectures')}: "
        "neither a causal nor a masked language model"
    )


def _most_tokens(checkpoint: Checkpoint, tokenizer: Tokenizer) -> int:
    """Return the tokens that positions and tokenizer allow, special tokens included."""
    stated = checkpoint.limits.get("max_seq_length") or tokenizer.max_tokens
    return int(min(positions(checkpoint.config) or MOST_TOKENS, stated, MOST_TOKENS))


@dataclass(frozen=True)
class Known:
    """A model directory and how it is used.

    Attributes:
        checkpoint: its parts.
        preset: ``csplade.json`` for a manifest of its own, ``given`` for one that the caller gave.
        manifest: sizes and hashes filled in.
        query_tokenizer, tokenizer: of queries and of documents, most often one.
    """

    checkpoint: Checkpoint
    preset: str
    manifest: Manifest
    query_tokenizer: Tokenizer
    tokenizer: Tokenizer


def read(
    path_or_id: str | Path,
    *,
    manifest: Manifest | None = None,
    preset: str | None = None,
    tokenizer: str | Path | None = None,
    base: str | Path | None = None,
    certified: bool = True,
) -> Known:
    """Find a model and how it is used.

    Args:
        path_or_id: ``embedded``, a directory, or a hub id.
        manifest: how to use a checkpoint that has no ``csplade.json``; sizes and hashes that it
            leaves out are filled in.
        preset: a family's conventions instead.
        tokenizer: directory or hub id of a tokenizer, for a checkpoint that has none of its own.
        base: directory or hub id of an adapter's base, instead of what its files name.
        certified: compare the files with the hashes of ``csplade.json``; else take them as they
            are.

    Raises:
        InputError: no such model, an unknown preset, none that can be recognized, or a manifest
            where there is one already.
        IncompatibleError: the tokenizer is another model's, the checkpoint is of another kind, or
            its files are not those that were certified.
        CorruptError: files that cannot be read.
        UnavailableError: the base or the hub is out of reach.
    """
    directory = resolve(path_or_id)
    if (directory / FILE_NAME).is_file():
        for name, given in (("manifest", manifest), ("preset", preset), ("tokenizer", tokenizer)):
            if given is not None:
                raise InputError(f"{directory}: has a {FILE_NAME} already; leave out {name}")
        own = Manifest.load(directory)
        checkpoint = find(directory, own, base_path=base)
        own = replace(own, base=_base(own, base))
        own = _checked(own, checkpoint) if certified else measured(own, checkpoint)
        return Known(checkpoint, FILE_NAME, own, *load_tokenizers(checkpoint, own))
    checkpoint = find(directory, base_path=base)
    if tokenizer is not None:
        checkpoint = replace(checkpoint, tokenizer=resolve(tokenizer), query_tokenizer=None)
    taken = "given" if manifest is not None else choose(checkpoint, str(path_or_id), preset)
    known = manifest or Manifest()
    queries, words = load_tokenizers(
        checkpoint, replace(known, vocabulary_size=known.vocabulary_size or _terms(checkpoint))
    )
    if manifest is None:
        manifest = _within_positions(PRESETS[taken].manifest(checkpoint, words), checkpoint)
        if checkpoint.query_tokenizer is not None:
            manifest = replace(manifest, query_max_tokens=min(queries.max_tokens, MOST_TOKENS))
    manifest = replace(
        manifest,
        base=_base(manifest, base),
        vocabulary_size=manifest.vocabulary_size or _terms(checkpoint),
        vocabulary_hash=manifest.vocabulary_hash or vocabulary_hash(words),
    )
    manifest = measured(manifest, checkpoint)
    log.info(
        "%s: %s",
        path_or_id,
        taken if taken == "given" else f"preset {taken}: {PRESETS[taken].what}",
    )
    return Known(checkpoint, taken, manifest, queries, words)


def _within_positions(manifest: Manifest, checkpoint: Checkpoint) -> Manifest:
    """Return a preset's manifest with token caps that the model has positions for."""
    most = positions(checkpoint.config) or MOST_TOKENS
    most = most // 2 if manifest.variant == "echo" else most
    return replace(
        manifest,
        query_max_tokens=min(manifest.query_max_tokens, most),
        document_max_tokens=min(manifest.document_max_tokens, most),
    )


def _terms(checkpoint: Checkpoint) -> int:
    """Return the size of a checkpoint's vocabulary, terms that the tokenizer lacks included."""
    config = checkpoint.config
    return int(saved_rows(checkpoint) or config.get("text_config", config)["vocab_size"])


def _base(manifest: Manifest, given: str | Path | None) -> dict[str, str]:
    if given is None:
        return manifest.base
    return {"path": str(Path(given).resolve() if Path(given).is_dir() else given)}


def measured(manifest: Manifest, checkpoint: Checkpoint) -> Manifest:
    """Return a manifest with the hashes of the files as they are."""
    return replace(
        manifest,
        tokenizer_hash=tokenizer_hash(checkpoint),
        config_hash=config_hash(checkpoint),
        weights_hash=weights_hash(checkpoint, manifest),
    )


def _checked(manifest: Manifest, checkpoint: Checkpoint) -> Manifest:
    """Return a manifest with the hashes that it lacked; those that it has must be the files'.

    Weights are large, and the golden vectors tell of them.
    """
    found = replace(
        manifest, tokenizer_hash=tokenizer_hash(checkpoint), config_hash=config_hash(checkpoint)
    )
    for name, what in (
        ("tokenizer_hash", "the files of its tokenizer"),
        ("config_hash", "config.json or adapter_config.json"),
    ):
        if getattr(manifest, name) not in ("", getattr(found, name)):
            raise IncompatibleError(
                f"{checkpoint.directory}: {what} changed since it was certified, so that its "
                "vectors may be other ones; restore the files, or run csplade model certify again "
                "and build its indexes anew"
            )
    return found
