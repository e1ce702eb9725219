"""Hard negatives by BM25: for each training query the passages that BM25 ranks high and nobody judged relevant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import bm25s
import numpy as np
import Stemmer

from ...files import read_jsonl, write_aside
from .data import Collection

K1, B = 0.9, 0.4


def mine(
    collection: Collection,
    out: Path,
    *,
    depth: int = 30,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write one JSON line per query: ``query``, ``positives`` and ``negatives`` (ids, best first), unless ``out`` is there.

    Args:
        collection: with the queries and judgments of one split.
        out: the file to write, whole or not at all.
        depth: how many passages BM25 (k1 0.9, b 0.4, English stop words, Snowball stemmer) is asked for.
        limit: at most this many queries, drawn by ``seed``; all by default.
        seed: of that draw.
        progress: called with the number of queries done since the last call.
    """
    if out.is_file():
        return
    stemmer = Stemmer.Stemmer("english")
    ids = np.array(list(collection.passages))
    index = bm25s.BM25(k1=K1, b=B)
    index.index(
        bm25s.tokenize(
            list(collection.passages.values()), stopwords="en", stemmer=stemmer, show_progress=False
        ),
        show_progress=False,
    )
    queries = list(collection.positives)
    if limit is not None and limit < len(queries):
        chosen = np.random.default_rng(seed).choice(len(queries), limit, replace=False)
        queries = [queries[i] for i in sorted(chosen)]
    with write_aside(out) as file:
        for start in range(0, len(queries), 500):
            batch = queries[start : start + 500]
            tokens = bm25s.tokenize(
                [collection.queries[query] for query in batch],
                stopwords="en",
                stemmer=stemmer,
                show_progress=False,
            )
            found, _scores = index.retrieve(tokens, k=min(depth, len(ids)), show_progress=False)
            for query, ranked in zip(batch, found, strict=True):
                positives = set(collection.positives[query])
                negatives = [str(ids[i]) for i in ranked if ids[i] not in positives]
                row = {"query": query, "positives": collection.positives[query], "negatives": negatives}
                file.write(json.dumps(row) + "\n")
            if progress is not None:
                progress(len(batch))


def read_negatives(path: Path) -> list[tuple[str, list[str], list[str]]]:
    """(query id, positive ids, negative ids) of a mined file."""
    return [(row["query"], row["positives"], row["negatives"]) for _, row in read_jsonl(path)]
