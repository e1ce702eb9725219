"""The lexical baseline: BM25 as bm25s computes it, with the settings Anserini uses for BEIR."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..core.beir import Dataset
from ..core.corpus import read_corpus
from ..core.errors import InputError, UnavailableError

K1, B = 0.9, 0.4


@dataclass(frozen=True)
class Bm25Result:
    """Rankings (query id -> document ids, best first) and what they took."""

    rankings: dict[str, list[str]]
    documents_per_second: float
    query_seconds_p50: float


def import_bm25() -> tuple[Any, Any]:
    """Return the modules bm25s and Stemmer; call it before long work.

    Raises:
        UnavailableError: one of them is not installed.
    """
    try:
        import bm25s
        import Stemmer
    except ImportError as error:
        raise UnavailableError(
            f"the BM25 baseline needs {error.name}: pip install 'csplade[train]'"
        ) from None
    return bm25s, Stemmer


def rank(
    dataset: Dataset, k: int = 1000, progress: Callable[[int, int], None] | None = None
) -> Bm25Result:
    """Rank the corpus for every query: English stop words, Snowball stemmer, title and text joined.

    Args:
        dataset: the collection.
        k: ranking depth; only documents with a score > 0 are ranked, ties by id descending as in
            trec_eval.
        progress: called with queries done and queries in all after each.

    Raises:
        InputError: a bad corpus or an empty one.
        UnavailableError: bm25s or PyStemmer is not installed.
    """
    bm25s, Stemmer = import_bm25()
    stemmer = Stemmer.Stemmer("english")
    documents = list(read_corpus(dataset.corpus))
    if not documents:
        raise InputError(f"{dataset.corpus}: no documents in it")
    ids, texts = [one.id for one in documents], [one.full_text for one in documents]

    started = time.perf_counter()
    tokens = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)
    index = bm25s.BM25(k1=K1, b=B)
    index.index(tokens, show_progress=False)
    documents_per_second = len(ids) / (time.perf_counter() - started)

    rankings, seconds = {}, []
    for done, (query, text) in enumerate(dataset.queries.items(), 1):
        started = time.perf_counter()
        words = bm25s.tokenize(
            [text], stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False
        )
        rows, scores = index.retrieve(words, k=min(k, len(ids)), show_progress=False)
        seconds.append(time.perf_counter() - started)
        hits = [
            (float(score), ids[row])
            for row, score in zip(rows[0], scores[0], strict=True)
            if score > 0
        ]
        rankings[query] = [document for _, document in sorted(hits, reverse=True)]
        if progress:
            progress(done, len(dataset.queries))
    return Bm25Result(rankings, documents_per_second, median(seconds))
