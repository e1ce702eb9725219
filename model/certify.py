"""Certify a model directory: measure its golden vectors in float32 and write them down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..core.errors import IncompatibleError
from .checkpoint.layout import find, resolve
from .checkpoint.manifest import Golden, Manifest
from .checkpoint.tokenizer import copy_tokenizer, is_plain, read_tokenizer
from .encoder import Encoder
from .golden import TEXTS


def certify(
    directory: Path,
    *,
    preset: str | None = None,
    tokenizer: str | Path | None = None,
    base: str | Path | None = None,
) -> Manifest:
    """Write golden vectors, measured in float32, into a model directory's manifest.

    A checkpoint without a ``csplade.json`` gets one, by its preset; from then on it needs neither
    preset nor tokenizer.

    Args:
        directory: the model.
        preset: for a checkpoint without a manifest whose files do not tell.
        tokenizer: directory or hub id; its files are put beside a checkpoint that has none.
        base: directory or hub id of an adapter's base, instead of what its files name.

    Returns:
        The manifest as written.

    Raises:
        IncompatibleError: a golden text whose vector is empty; a model that cannot be certified.
    """
    encoder = Encoder.from_pretrained(
        directory,
        device="cpu",
        quantization="none",
        dtype=torch.float32,
        preset=preset,
        tokenizer=tokenizer,
        base=base,
        self_test=False,
    )
    if tokenizer is not None:
        copy_tokenizer(resolve(tokenizer), directory)
    manifest = replace(encoder.manifest, golden=_golden_vectors(encoder))
    checkpoint = find(directory, manifest)
    sources = {checkpoint.tokenizer, checkpoint.query_tokenizer or checkpoint.tokenizer}
    plain = all(is_plain(read_tokenizer(source), source) for source in sources)
    manifest = replace(manifest, plain_tokenizer=plain)
    manifest.save(directory)
    return manifest


def _golden_vectors(encoder: Encoder) -> tuple[Golden, ...]:
    vectors = []
    for kind, text in TEXTS:
        terms, weights = encoder.encode([text], kind).vectors.row(0)
        if not len(terms):
            raise IncompatibleError(
                f"{encoder.name}: golden {kind} {text[:40]!r} gives an empty vector: no logit is "
                "above 0, so the model finds nothing; train it again, or give another preset"
            )
        vectors.append(
            Golden(
                kind=kind,
                text=text,
                terms=tuple(int(term) for term in terms),
                weights=tuple(round(float(weight), 4) for weight in weights),
                tokens=tuple(encoder.tokenize([text], kind).ids[0].tolist()),
            )
        )
    return tuple(vectors)
