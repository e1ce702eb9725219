"""Folding: word forms that share a stem share one term.

A vocabulary of word pieces has "flow", "flows" and "flowing" as three terms; a query with one of
them misses documents with another. Folding keeps the most frequent form as the term of all of them:
the head gets shorter, so does the index, and training teaches every form to activate that one term.
(Case is folded by the manifest's ``lowercase``; folded vocabularies of learned sparse models:
SPARSEUP, UEmbed.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

SHORTEST = 4  # letters; shorter words have stems that mean something else too often


def fold_forms(
    tokens: Sequence[str], frequency: NDArray[np.int64], stem: Callable[[str], str]
) -> NDArray[np.int32]:
    """Return the term that each token stands for.

    Args:
        tokens: [V] text of each token as it stands in running text: the first of a word begins with
            a space.
        frequency: int64 [V], how often each token is met; the most frequent form of a stem stands
            for all.
        stem: a stemmer of words.

    Returns:
        int32 [V]; a token that is not a whole word of the letters a to z, or is too short, stands
        for itself.
    """
    forms: dict[str, list[int]] = {}
    for token, text in enumerate(tokens):
        word = text.removeprefix(" ")
        if (
            word != text
            and len(word) >= SHORTEST
            and word.isascii()
            and word.isalpha()
            and word.islower()
        ):
            forms.setdefault(stem(word), []).append(token)
    folded = np.arange(len(tokens), dtype=np.int32)
    for group in forms.values():
        folded[group] = max(group, key=lambda token: (frequency[token], -token))
    return folded
