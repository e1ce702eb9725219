"""The golden self-test: texts whose vectors the manifest keeps, and the comparison with them.

A wrong convention gives vectors that look sound and retrieve nothing: a BOS on the wrong side took
one public checkpoint from 0.75 to 0.02 nDCG@10.
"""

from __future__ import annotations

import numpy as np

from ..core.errors import IncompatibleError
from ..core.vectors import SparseBatch
from .checkpoint.manifest import Golden
from .tokens import Kind

TEXTS: tuple[tuple[Kind, str], ...] = (
    ("query", "how do plants turn sunlight into energy?"),
    (
        "document",
        "The Rhine rises in the Swiss Alps and reaches the North Sea near Rotterdam after some "
        "1,230 kilometres.",
    ),
    (
        "document",
        "A hash table maps keys to buckets; with a good hash function a look-up takes constant "
        "time on average.",
    ),
)
# Cosine between the vector kept and the vector found. Another thread count or CPU moves bfloat16
# vectors in the third digit and 8-bit weights in the second; 4-bit weights move them more; an added
# BOS moves them below either bound.
LEAST_COSINE = 0.97
LEAST_COSINE_4BIT = 0.85
# Quotient of the two vectors' lengths, at most, either way: a factor on the logits changes it.
MOST_LONGER = 1.1
MOST_LONGER_4BIT = 1.4


def compare_tokens(golden: Golden, found: list[int], *, model: str) -> None:
    """Compare the token ids of a golden text with those that the manifest keeps, exactly.

    Raises:
        IncompatibleError: other ids, which a change of the tokenizer or its library gives.
    """
    expected = list(golden.tokens)
    if expected and found != expected:
        place = next(
            (i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]),
            min(len(found), len(expected)),
        )
        raise IncompatibleError(
            f"{model}: golden {golden.kind} {golden.text[:40]!r} gives other token ids from "
            f"place {place} on; the tokenizer, its rules or the version of tokenizers or "
            "transformers is not the one that csplade.json was certified with"
        )


def compare(golden: Golden, found: SparseBatch, *, model: str, quantization: str) -> None:
    """Compare the vector of a golden text with the one that the manifest keeps.

    Args:
        golden: the text and its vector.
        found: one row, the vector that the encoder gives.
        model: name for the message.
        quantization: of the encoder's weights; 4 bits are allowed a larger difference.

    Raises:
        IncompatibleError: the vectors differ, naming the text and the cosine found.
    """
    packed = quantization in ("nf4", "fp4")
    least = LEAST_COSINE_4BIT if packed else LEAST_COSINE
    longest = MOST_LONGER_4BIT if packed else MOST_LONGER
    terms, weights = found.row(0)
    size = 1 + max((*golden.terms, *terms.tolist()), default=0)
    expected, encoded = np.zeros((2, size))
    expected[list(golden.terms)] = golden.weights
    encoded[terms] = weights
    lengths = np.linalg.norm(expected), np.linalg.norm(encoded)
    if not (np.isfinite(lengths[0]) and lengths[0] > 0):
        raise IncompatibleError(
            f"{model}: golden {golden.kind} {golden.text[:40]!r} has an empty or infinite vector "
            "in csplade.json, which proves nothing; mend the model and run csplade model certify"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = float(expected @ encoded / (lengths[0] * lengths[1]))
        longer = float(lengths[1] / lengths[0])
    if not cosine >= least:
        difference = f"cosine {cosine:.3f}, must be at least {least}"
    elif not 1 / longest <= longer <= longest:
        difference = f"its weights are {longer:.3f} times as large, at most {longest} is allowed"
    else:
        return
    raise IncompatibleError(
        f"{model}: golden {golden.kind} {golden.text[:40]!r} gives another vector ({difference}); "
        "check special tokens, prefixes, tokenizer and weights against its csplade.json"
    )
