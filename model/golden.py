"""The golden self-test: a few texts whose vectors are kept in the manifest and must come out again
before a model serves.

A wrong convention gives vectors that look sound and retrieve nothing: a BOS on the wrong side took
one public checkpoint from 0.75 to 0.02 nDCG@10.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import IncompatibleError
from .checkpoint.manifest import Golden, Manifest

if TYPE_CHECKING:
    from .encoder import Encoder
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


def record(encoder: Encoder) -> Manifest:
    """The encoder's manifest with golden vectors as this encoder gives them."""
    vectors = []
    for kind, text in TEXTS:
        terms, weights = encoder.encode([text], kind).vectors.row(0)
        vectors.append(
            Golden(
                kind=kind,
                text=text,
                terms=tuple(int(term) for term in terms),
                weights=tuple(round(float(weight), 4) for weight in weights),
            )
        )
    return replace(encoder.manifest, golden=tuple(vectors))


def certify(
    directory: Path, *, preset: str | None = None, tokenizer: str | Path | None = None
) -> Manifest:
    """Write golden vectors, measured in float32, into a model directory's manifest.

    A checkpoint without a ``csplade.json`` gets one, by its preset; from then on it needs neither
    preset nor tokenizer.

    Args:
        directory: the model.
        preset: for a checkpoint without a manifest whose files do not tell.
        tokenizer: directory or hub id; its files are put beside a checkpoint that has none.
    """
    import torch

    from .encoder import Encoder

    encoder = Encoder.from_pretrained(
        directory,
        device="cpu",
        quantization="none",
        dtype=torch.float32,
        preset=preset,
        tokenizer=tokenizer,
        self_test=False,
    )
    manifest = record(encoder)
    if tokenizer is not None:
        encoder.save_tokenizer(directory)
    manifest.save(directory)
    return manifest


def check(encoder: Encoder, quantization: str) -> None:
    """Encode the golden texts and compare.

    Raises:
        IncompatibleError: a vector differs, naming the text and the cosine found.
    """
    least = LEAST_COSINE_4BIT if quantization in ("nf4", "fp4") else LEAST_COSINE
    for golden in encoder.manifest.golden:
        terms, weights = encoder.encode([golden.text], golden.kind).vectors.row(0)
        expected, found = np.zeros((2, encoder.vocabulary_size))
        expected[list(golden.terms)] = golden.weights
        found[terms] = weights
        norm = float(np.linalg.norm(expected) * np.linalg.norm(found))
        cosine = (
            float(expected @ found) / norm
            if norm
            else float(not expected.any() and not found.any())
        )
        if not cosine >= least:
            raise IncompatibleError(
                f"{encoder.name}: golden {golden.kind} {golden.text[:40]!r} gives another vector "
                f"(cosine {cosine:.3f}, must be at "
                f"least {least}); check special tokens, prefixes, tokenizer and weights against "
                "its csplade.json"
            )
