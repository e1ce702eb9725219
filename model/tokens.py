"""Texts to token ids by the manifest's rules, and the vectors that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.vectors import SparseBatch
from .checkpoint.manifest import Manifest
from .tokenizer import Tokenizer

Kind = Literal["query", "document"]


@dataclass(frozen=True)
class Tokens:
    """Token ids of n texts.

    Attributes:
        ids: int32 [length] per text; a text may have none.
        dropped: int64 [n], tokens that the cap cut from each text.
    """

    ids: list[NDArray[np.int32]]
    dropped: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [n], tokens of each text."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    def take(self, rows: Sequence[int]) -> Tokens:
        """Return the given texts, in the given order."""
        return Tokens([self.ids[row] for row in rows], self.dropped[list(rows)])

    @classmethod
    def concatenate(cls, parts: Sequence[Tokens]) -> Tokens:
        """Return all texts of all parts, in order."""
        return cls(
            [ids for part in parts for ids in part.ids],
            np.concatenate([part.dropped for part in parts]),
        )


@dataclass(frozen=True)
class Encoded:
    """Vectors of n texts and what making them took.

    Attributes:
        vectors: one row per text, in the order given.
        tokens: int64 [n], tokens encoded.
        dropped_tokens: int64 [n], cut by the token cap.
        dropped_terms: int64 [n], positive weights cut by the term cap.
        timings: nanoseconds by stage: tokenize, encode, sparsify.
    """

    vectors: SparseBatch
    tokens: NDArray[np.int64]
    dropped_tokens: NDArray[np.int64]
    dropped_terms: NDArray[np.int64]
    timings: dict[str, int]


def tokenize(tokenizer: Tokenizer, manifest: Manifest, texts: Sequence[str], kind: Kind) -> Tokens:
    """Return the token ids of texts; an empty or blank text has none, whatever the prefix.

    The cap cuts the end of the text, or its beginning where the tokenizer says so; special tokens
    that the tokenizer adds around it stay. A query that is looked up in a table gets no special
    tokens.

    Raises:
        InputError: a text holds a token that is not a term of the model.
    """
    prefix = manifest.query_prefix if kind == "query" else manifest.document_prefix
    cap = manifest.query_max_tokens if kind == "query" else manifest.document_max_tokens
    stripped = [text.strip() for text in texts]
    prepared = [prefix + (text.lower() if manifest.lowercase else text) for text in stripped]
    special = manifest.add_special_tokens and not (
        kind == "query" and manifest.query_encoder == "lexical"
    )
    encoded = tokenizer.ids(prepared, special=special)
    whole = [ids if text else [] for text, ids in zip(stripped, encoded, strict=True)]
    ids = [np.asarray(tokenizer.cut(row, cap, special=special), dtype=np.int32) for row in whole]
    for text, row in zip(texts, ids, strict=True):
        if len(row) and row.max() >= manifest.vocabulary_size:
            raise InputError(
                f"text {text[:40]!r} holds token {tokenizer.token(int(row.max()))!r}, which was "
                "added to the tokenizer and is not a term of the model; leave it out"
            )
    dropped = np.array([max(0, len(row) - cap) for row in whole], dtype=np.int64)
    return Tokens(ids, dropped)
