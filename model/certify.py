"""Certify a model directory: measure its golden vectors in float32 and write them down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from .checkpoint.layout import find, resolve
from .checkpoint.manifest import Golden, Manifest
from .checkpoint.tokenizer import copy_tokenizer, is_plain, read_tokenizer
from .encoder import Encoder
from .golden import TEXTS


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

    Returns:
        The manifest as written.
    """
    encoder = Encoder.from_pretrained(
        directory,
        device="cpu",
        quantization="none",
        dtype=torch.float32,
        preset=preset,
        tokenizer=tokenizer,
        self_test=False,
    )
    if tokenizer is not None:
        copy_tokenizer(resolve(tokenizer), directory)
    manifest = replace(encoder.manifest, golden=_golden_vectors(encoder))
    source = find(directory, manifest).tokenizer
    manifest = replace(manifest, plain_tokenizer=is_plain(read_tokenizer(source), source))
    manifest.save(directory)
    return manifest


def _golden_vectors(encoder: Encoder) -> tuple[Golden, ...]:
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
    return tuple(vectors)
