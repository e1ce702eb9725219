"""The manifest: everything that must be equal for two sparse vectors to be comparable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...core.errors import CorruptError, InputError
from ...core.files import share_files, write_aside
from ...core.typed import load
from .files import read_json

FILE_NAME = "csplade.json"
FORMAT_VERSION = 1
MAX_TERMS = 1024  # of a vector


@dataclass(frozen=True, kw_only=True)
class Golden:
    """A text and the vector it must give: the self-test that a model passes before it serves.

    Attributes:
        kind: which side the text stands on.
        text: what is encoded.
        terms, weights: its vector, weights rounded to four decimals.
        tokens: its token ids.
    """

    kind: Literal["query", "document"]
    text: str
    terms: tuple[int, ...]
    weights: tuple[float, ...]
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """How a model directory turns text into vectors; ``csplade.json`` in that directory.

    Attributes:
        architecture: which head the model has.
        variant: attention of a causal LM: as trained, over the text twice pooling the second copy,
            or without the mask; a masked LM is always bidirectional.
        layers: how many of the base's first layers are kept; 0 keeps all.
        activation: of the pooled logit: ``log1p(relu(x))``, or that under a second ``log1p``
            (OpenSearch v3).
        logit_scale: factor on ``logit + bias`` before the activation, > 0.
        logit_shift: added after the scale.
        lowercase: texts are lower-cased before they are tokenized.
        add_special_tokens: let the tokenizer add its own (a BOS is an attention sink that ruins a
            model trained without).
        query_prefix: put before every query; document_prefix before every document.
        query_max_tokens: tokens kept of a query, prefix included; document_max_tokens likewise.
        query_max_terms: largest weights kept of a query's vector; document_max_terms likewise.
        query_encoder: what makes a query's vector: the model, or (``lexical``) a look-up of its
            tokens in a table of weights.
        query_expansion: with a lexical query encoder, what the network's weights of a query are
            multiplied by before they are added to those of the table, where a server asks for both;
            0 where the network was not made for queries.
        query_idf: collections multiply query weights by their own IDF unless told otherwise, see
            :mod:`csplade.core.idf`.
        query_counts: a look-up counts a term as often as the query repeats it; else once.
        lexical_prior: weight, times its share of BM25 (see :mod:`.prior`), that a document's own
            terms get on top of the model's; 0 adds none. Only with a lexical query encoder.
        normalize: vectors are divided by their Euclidean length after the term cap, so that a dot
            product is a cosine.
        excluded_terms: term ids, ascending, that no vector of the model ever holds.
        vocabulary_size: V of the head, named terms or not.
        vocabulary_hash: SHA-256 over the tokenizer's (token, id) pairs.
        tokenizer_hash: SHA-256 over what the tokenizer's files say of token ids.
        config_hash: SHA-256 over what ``config.json`` and ``adapter_config.json`` say of computing.
        weights_hash: SHA-256 over the weight files, base included.
        base: the base of an adapter: the published one (name, sha256 of its source file), or the
            path where it lies on this machine; empty where the adapter's own files say it.
        plain_tokenizer: ``tokenizer.json`` gives the tokens as it stands, without transformers.
        golden: self-test texts with their vectors.
    """

    architecture: Literal["causal_lm", "masked_lm"] = "causal_lm"
    variant: Literal["causal", "echo", "bidirectional"] = "causal"
    layers: int = 0
    pooling: Literal["max"] = "max"
    activation: Literal["log1p_relu", "log1p_log1p_relu"] = "log1p_relu"
    logit_scale: float = 1.0
    logit_shift: float = 0.0
    lowercase: bool = False
    add_special_tokens: bool = False
    query_prefix: str = ""
    document_prefix: str = ""
    query_max_tokens: int = 64
    document_max_tokens: int = 256
    query_max_terms: int = 128
    document_max_terms: int = 256
    query_encoder: Literal["model", "lexical"] = "model"
    query_expansion: float = 0.0
    query_idf: bool = False
    query_counts: bool = False
    lexical_prior: float = 0.0
    normalize: bool = False
    excluded_terms: tuple[int, ...] = ()
    vocabulary_size: int = 0
    vocabulary_hash: str = ""
    tokenizer_hash: str = ""
    config_hash: str = ""
    weights_hash: str = ""
    base: dict[str, str] = field(default_factory=dict)
    plain_tokenizer: bool = False
    golden: tuple[Golden, ...] = ()

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"manifest {name} is {getattr(self, name)!r}, must be one of "
                    f"{', '.join(allowed)}"
                )
        if self.architecture == "masked_lm" and self.variant != "bidirectional":
            raise InputError(
                f"manifest variant is {self.variant!r}, must be bidirectional for architecture "
                "masked_lm"
            )
        if not self.logit_scale > 0:
            raise InputError(f"manifest logit_scale is {self.logit_scale}, must be > 0")
        for name in ("lexical_prior", "query_counts", "query_expansion"):
            if getattr(self, name) and self.query_encoder != "lexical":
                raise InputError(
                    f"manifest {name} is {getattr(self, name)}, needs query_encoder lexical"
                )
        if self.query_expansion and self.normalize:
            raise InputError(
                f"manifest query_expansion is {self.query_expansion}, needs normalize false"
            )
        for name, (low, high) in _BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(
                    f"manifest {name} is {getattr(self, name)}, must be {low} to {high}"
                )

    @property
    def query_encoders(self) -> tuple[str, ...]:
        """What can encode queries, the default first: "lexical", "model" or "both"."""
        if self.query_encoder == "model":
            return ("model",)
        return ("lexical", "model", "both") if self.query_expansion else ("lexical",)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that is chosen; what certification measures is left out.

        Every index keeps it.
        """
        values = self.to_dict(golden=False)
        del values["plain_tokenizer"]
        values["base"] = {name: said for name, said in self.base.items() if name != "path"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def to_dict(self, *, golden: bool = True) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = dataclasses.asdict(self)
        if not golden:
            del values["golden"]
        return {"format_version": FORMAT_VERSION, **values}

    def save(self, directory: Path) -> None:
        """Write ``csplade.json``; whoever may read the directory may then read all its files."""
        with write_aside(directory / FILE_NAME) as file:
            json.dump(self.to_dict(), file, indent=1, ensure_ascii=False)
            file.write("\n")
        share_files(directory)

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Read ``csplade.json``.

        Raises:
            CorruptError: not readable as JSON, or of another format version.
            InputError: an unknown key or a value out of range.
        """
        path = directory / FILE_NAME
        values = read_json(path)
        try:
            version = values.pop("format_version")
        except (KeyError, AttributeError, TypeError, IndexError) as error:
            raise CorruptError(f"{path}: not a model manifest: {error!r}") from None
        if version != FORMAT_VERSION:
            raise CorruptError(
                f"{path}: format version {version}, this program reads {FORMAT_VERSION}"
            )
        names = {item.name for item in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - names):
            raise InputError(
                f"{path}: unknown key {unknown[0]!r}; known are {', '.join(sorted(names))}"
            )
        try:
            golden = tuple(load(Golden, one) for one in values.pop("golden", ()))
            return load(cls, {**values, "golden": golden})
        except (InputError, TypeError) as error:
            raise InputError(f"{path}: {error}") from None


_CHOICES = {
    "architecture": ("causal_lm", "masked_lm"),
    "variant": ("causal", "echo", "bidirectional"),
    "pooling": ("max",),
    "activation": ("log1p_relu", "log1p_log1p_relu"),
    "query_encoder": ("model", "lexical"),
}
_BOUNDS = {
    "vocabulary_size": (0, 2**24),
    "lexical_prior": (0, 5),
    "query_expansion": (0, 100),
    "layers": (0, 1024),
    "query_max_tokens": (1, 8192),
    "document_max_tokens": (1, 8192),
    "query_max_terms": (1, MAX_TERMS),
    "document_max_terms": (1, MAX_TERMS),
}
