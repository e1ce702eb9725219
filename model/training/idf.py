"""Inference-free queries: weigh their tokens by IDF over a corpus, and keep the document side."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ...core.errors import InputError
from ..certify import certify
from ..checkpoint.files import TABLE_FILE
from ..checkpoint.head import load_head
from ..checkpoint.manifest import MAX_TERMS, Manifest
from ..checkpoint.tokenizer import load_tokenizer
from ..tokens import tokenize
from .output import JOB_FILE, Output, digest, model_digest

CHUNK = 1000  # texts that are tokenized together


def train_idf(
    model: Path,
    out: Path,
    texts: Iterable[str],
    *,
    counts: bool = False,
    prior: float = 0.0,
    expansion: float = 0.0,
    collection_idf: bool = False,
    progress: Callable[[int], None] | None = None,
) -> bool:
    """Copy a model to ``out`` with inference-free queries, weighted by IDF over a corpus.

    Returns whether there was anything to do.

    ``idf(t) = ln(1 + (N - n(t) + 0.5) / (n(t) + 0.5))``, as Lucene's BM25 has it; n(t) counts the
    texts that hold token t within the model's document cap. Special tokens and terms that no
    document vector can hold weigh 0. All terms of a query are kept.

    Args:
        model: model directory; its document side stays as it is.
        out: directory to write, not there yet.
        texts: the corpus; iterated twice.
        counts: the manifest's ``query_counts``.
        prior: the manifest's ``lexical_prior``.
        expansion: the manifest's ``query_expansion``.
        collection_idf: the manifest's ``query_idf``.
        progress: called with the number of texts of each batch.

    Raises:
        InputError: ``out`` is something else, or there are no texts.
        IncompatibleError: ``out`` was made with another setting, model or corpus.
    """
    settings = {
        "counts": counts,
        "prior": prior,
        "expansion": expansion,
        "collection_idf": collection_idf,
        "model": model_digest(model),
    }
    output = Output(out, "idf", {**settings, "texts": digest(texts)})
    if output.finished():
        return False
    manifest = Manifest.load(model)
    manifest = dataclasses.replace(
        manifest,
        query_encoder="lexical",
        query_counts=counts,
        lexical_prior=prior,
        query_expansion=expansion,
        query_idf=collection_idf,
        # A network's small weights are noise that a cap cuts; a look-up has none.
        query_max_terms=min(manifest.query_max_tokens, MAX_TERMS),
        golden=(),
    )
    tokenizer = load_tokenizer(model, manifest)
    # Tokens are counted as the query side makes them, without its prefix: those of a prefix tell
    # nothing apart.
    counted = dataclasses.replace(
        manifest, query_prefix="", query_max_tokens=manifest.document_max_tokens
    )
    head = load_head(model, manifest.vocabulary_size)
    folded = head.folded
    found, total = np.zeros(manifest.vocabulary_size, dtype=np.int64), 0
    waiting = iter(texts)
    while chunk := list(islice(waiting, CHUNK)):
        for ids in tokenize(tokenizer, counted, chunk, "query").ids:
            found[np.unique(folded[ids])] += 1
        total += len(chunk)
        if progress is not None:
            progress(len(chunk))
    if not total:
        raise InputError("the corpus has no texts to count")
    weights = np.log1p((total - found + 0.5) / (found + 0.5)).astype(np.float32)
    weights[tokenizer.special_ids()] = 0.0
    weights[np.setdiff1d(np.arange(len(weights)), head.terms)] = 0.0
    write_table(model, output, weights, manifest)
    return True


def write_table(
    model: Path, output: Output, weights: NDArray[np.float32], manifest: Manifest
) -> None:
    """Copy a model with another table, float32 [V], and manifest, and certify the copy."""
    with output.write() as aside:
        shutil.copytree(model, aside, dirs_exist_ok=True, ignore=shutil.ignore_patterns(JOB_FILE))
        save_file({"weight": weights}, aside / TABLE_FILE)
        dataclasses.replace(manifest, golden=()).save(aside)
        certify(aside)
