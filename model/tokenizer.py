"""The tokenizer: text to token ids and token ids to text, by the ``tokenizers`` library alone.

Importing transformers takes longer than answering a query, so it is imported only for tokenizers
that it changes while it reads them (see :mod:`.checkpoint.tokenizer`).
"""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers

from ..core.errors import InputError


class Tokenizer:
    """A tokenizer of Hugging Face, without padding and without a cap.

    Attributes:
        end: id of the end-of-text token, None without one.
        unknown: id of the unknown token, None without one.
        max_tokens: tokens that the tokenizer's files allow in a text.
        keeps_end: a text that is too long loses its beginning, not its end.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        end: int | None = None,
        unknown: int | None = None,
        max_tokens: int = 2**31,
        keeps_end: bool = False,
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self.end, self.unknown = end, unknown
        self.max_tokens, self.keeps_end = max_tokens, keeps_end

    def required_end(self) -> int:
        """Return the id of the end-of-text token.

        Raises:
            InputError: there is none.
        """
        if self.end is None:
            raise InputError("tokenizer: has no eos_token, which separates texts in training")
        return self.end

    def ids(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Return the token ids of each text, with the tokenizer's own special tokens if asked."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=special)
        return [encoding.ids for encoding in encodings]

    def vocabulary(self) -> dict[str, int]:
        """Return the id of each token string."""
        return self._backend.get_vocab(with_added_tokens=True)

    def token(self, term: int) -> str | None:
        """Return the string of a token, None for an id that has none."""
        return self._backend.id_to_token(term)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text that token ids stand for, special tokens included."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def added_tokens(self) -> list[str]:
        """Return the tokens that were added to the vocabulary, special ones included."""
        return [token.content for token in self._backend.get_added_tokens_decoder().values()]

    def special_ids(self) -> list[int]:
        """Return the ids of the special tokens, ascending."""
        added = self._backend.get_added_tokens_decoder()
        return sorted(term for term, token in added.items() if token.special)

    def special_around(self) -> tuple[int, int]:
        """Return how many special tokens the tokenizer adds before and after a text."""
        bare, around = self.ids(["", "a"], special=True)
        opening = next(
            (i for i, (one, other) in enumerate(zip(bare, around, strict=False)) if one != other),
            len(bare),
        )
        return opening, len(bare) - opening

    def cut(self, ids: list[int], cap: int, *, special: bool = False) -> list[int]:
        """Return at most ``cap`` ids of a text; the special tokens around it stay."""
        if len(ids) <= cap:
            return ids
        opening, closing = self.special_around() if special else (0, 0)
        if self.keeps_end:
            return ids[:opening] + ids[len(ids) - (cap - opening) :]
        return ids[: cap - closing] + ids[len(ids) - closing :]

    def to_json(self) -> str:
        """Return the whole tokenizer in the form of ``tokenizer.json``."""
        return self._backend.to_str()
