"""Texts to token ids by the manifest's rules: case, prefix, special tokens, cap. What the cap cuts
is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from .checkpoint.manifest import Manifest

Kind = Literal["query", "document"]


@dataclass(frozen=True)
class Tokens:
    """Token ids of some texts.

    Attributes:
        ids: int32 [length] per text; a text may have none.
        dropped: int64 [n], tokens that the cap cut from each text's end.
    """

    ids: list[NDArray[np.int32]]
    dropped: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> Tokens:
        """The given texts, in the given order."""
        return Tokens([self.ids[row] for row in rows], self.dropped[list(rows)])

    @classmethod
    def concatenate(cls, parts: Sequence[Tokens]) -> Tokens:
        """All texts of all parts, in order."""
        return cls(
            [ids for part in parts for ids in part.ids],
            np.concatenate([part.dropped for part in parts]),
        )


def tokenize(
    tokenizer: PreTrainedTokenizerFast, manifest: Manifest, texts: Sequence[str], kind: Kind
) -> Tokens:
    """Token ids of texts; an empty or blank text has none, whatever the prefix.

    What the cap cuts comes off the end of the text; a special token that the tokenizer adds there
    (SEP, EOS) stays. A query that is looked up in a table gets no special tokens.
    """
    prefix = manifest.query_prefix if kind == "query" else manifest.document_prefix
    cap = manifest.query_max_tokens if kind == "query" else manifest.document_max_tokens
    said = [text.strip() for text in texts]
    prepared = [prefix + (text.lower() if manifest.lowercase else text) for text in said]
    special = manifest.add_special_tokens and not (
        kind == "query" and manifest.query_encoder == "lexical"
    )
    encoded = tokenizer(prepared, add_special_tokens=special)["input_ids"] if prepared else []
    whole = [ids if text else [] for text, ids in zip(said, encoded, strict=True)]
    closing = _closing(tokenizer) if special and any(len(row) > cap for row in whole) else 0
    ids = [
        np.asarray(
            row if len(row) <= cap else row[: cap - closing] + row[len(row) - closing :],
            dtype=np.int32,
        )
        for row in whole
    ]
    dropped = np.array([max(0, len(row) - cap) for row in whole], dtype=np.int64)
    return Tokens(ids, dropped)


def _closing(tokenizer: PreTrainedTokenizerFast) -> int:
    """How many special tokens the tokenizer adds after a text."""
    bare, around = (tokenizer(text)["input_ids"] for text in ("", "a"))
    opening = next(
        (i for i, (one, other) in enumerate(zip(bare, around, strict=False)) if one != other),
        len(bare),
    )
    return len(bare) - opening
