"""The point training starts from: which terms the head keeps, which share one, and a bias per term
from document frequencies.

A head over terms that no text ever contains costs time and gives noise. A bias of ``strength * (idf
- max idf)`` makes rare terms easier to activate than common ones before anything is learned;
training moves it from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import Stemmer

from ...core.errors import InputError
from ..checkpoint import base
from ..checkpoint.head import Head, save_head
from ..checkpoint.manifest import Manifest
from ..checkpoint.tokenizer import read_tokenizer, vocabulary_hash
from .folding import fold_forms


def start(
    texts: Iterable[str],
    out: Path,
    *,
    variant: str = "bidirectional",
    layers: int = 6,
    lowercase: bool = True,
    fold: bool = True,
    minimum_documents: int = 2,
    logit_scale: float = 0.2,
    logit_shift: float = -2.8,
    bias_strength: float = 1.5,
) -> Manifest:
    """Write a model directory over the embedded base that training can start from.

    Args:
        texts: passages whose terms are counted.
        out: directory to make; must not exist.
        variant: attention of the encoder.
        layers: first layers of the base to keep.
        lowercase: fold case, and so keep no term with an upper-case letter.
        fold: let the forms of a word share one term (see :mod:`.folding`; Snowball's English
            stemmer).
        minimum_documents: a term in fewer passages is not kept, nor is one without a letter or
            digit.
        logit_scale: see :class:`Manifest`.
        logit_shift: see :class:`Manifest`.
        bias_strength: raw-logit units per unit of IDF.

    Raises:
        InputError: ``out`` exists, or no text was given.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; choose another directory")
    source = base.pull()
    tokenizer = read_tokenizer(source)
    vocabulary = len(tokenizer.vocabulary())
    texts, contents = iter(texts), []
    while batch := [" " + (text.lower() if lowercase else text) for text in islice(texts, 2000)]:
        contents += [np.unique(ids) for ids in tokenizer.ids(batch)]
    if not contents:
        raise InputError("no texts to count terms in: give at least one corpus")
    written = [tokenizer.text([token]) for token in range(vocabulary)]
    folded = np.arange(vocabulary, dtype=np.int32)
    if fold:
        stem = Stemmer.Stemmer("english").stemWord
        folded = fold_forms(
            written, np.bincount(np.concatenate(contents), minlength=vocabulary), stem
        )
    frequency = np.bincount(
        np.concatenate([np.unique(folded[tokens]) for tokens in contents]), minlength=vocabulary
    )
    wordlike = np.array([any(c.isalnum() for c in text) for text in written])
    terms = np.flatnonzero((frequency >= minimum_documents) & wordlike)
    idf = np.log1p((len(contents) - frequency[terms] + 0.5) / (frequency[terms] + 0.5))
    bias = bias_strength * (idf - idf.max())
    manifest = Manifest(
        variant=variant,  # type: ignore[arg-type]
        layers=layers,
        lowercase=lowercase,
        query_prefix=" ",
        document_prefix=" ",
        query_max_tokens=256,
        document_max_tokens=512,
        query_max_terms=32,
        document_max_terms=512,
        logit_scale=logit_scale,
        logit_shift=logit_shift,
        vocabulary_size=vocabulary,
        vocabulary_hash=vocabulary_hash(tokenizer),
        base={"name": base.NAME, "sha256": base.WHEEL_SHA256},
    )
    aside = out.with_name(out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_head(aside, Head(terms.astype(np.int32), bias.astype(np.float32), folded))
    manifest.save(aside)
    aside.rename(out)
    return manifest
