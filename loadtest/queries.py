"""The requests of a load test: distinct queries of a file, mixed by weight, in the order in which
they are sent.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict

from ..core.errors import InputError, UnavailableError
from ..core.files import read_jsonl, write_aside
from ..v1 import retrieval_pb2 as pb
from .target import Target

KINDS = ("text", "vector", "encode")
LONGEST = 10_000  # requests that are prepared; k6 begins again from the first one
ENCODED = 256  # texts that the target is asked to turn into vectors
AT_ONCE = 16


@dataclass(frozen=True)
class Queries:
    """What a file holds: ``texts``, and ``vectors`` as (term string or id, weight) where it has
    them.
    """

    name: str
    texts: tuple[str, ...]
    vectors: tuple[Mapping[str, float], ...]


def read_mix(text: str) -> dict[str, float]:
    """Parse ``text=1,vector=0.5``; kinds left out weigh nothing.

    Raises:
        InputError: another form, an unknown kind, or no weight above 0.
    """
    weights = dict.fromkeys(KINDS, 0.0)
    for part in text.split(","):
        kind, _, value = part.strip().partition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = -1.0
        if kind not in KINDS or not 0 <= weight < float("inf"):
            raise InputError(
                f"mix is {text!r}, must be like text=1,vector=0.5 with {', '.join(KINDS)}"
            )
        weights[kind] = weight
    if not any(weights.values()):
        raise InputError(f"mix is {text!r}: one of the weights must be above 0")
    return weights


def read_queries(path: Path) -> Queries:
    """Read queries, JSON lines with ``text`` (or ``contents``) and, if they are vectors too,
    ``vector``.

    Raises:
        InputError: no such file, a line with neither, or no line at all.
    """
    texts, vectors = [], []
    for number, line in read_jsonl(path):
        text, vector = line.get("text", line.get("contents")), line.get("vector")
        if isinstance(text, str) and text.strip():
            texts.append(text)
        if isinstance(vector, dict) and vector:
            vectors.append(vector)
        elif not isinstance(text, str):
            raise InputError(
                f"{path}:{number}: needs 'text', a string, or 'vector', an object of term: weight"
            )
    if not texts and not vectors:
        raise InputError(f"{path}: no query in it")
    return Queries(path.name, tuple(dict.fromkeys(texts)), tuple(vectors))


def prepare(
    queries: Queries, weights: Mapping[str, float], target: Target, *, k: int, seed: int, path: Path
) -> str:
    """Write the requests as the scripts read them.

    Args:
        queries: where they come from.
        weights: of each kind.
        target: asked for its vocabulary, and for vectors where the file has none.
        k: hits of a search.
        seed: of order and mix.
        path: the file to write.

    Returns:
        What was made of the queries, in one line.

    Raises:
        InputError: the mix needs texts, or an encoder, and there are none.
        UnavailableError: the target does not answer.
    """
    draw = random.Random(seed)
    messages: dict[str, list[dict[str, Any]]] = {}
    told = []
    if weights["text"] or weights["encode"]:
        if not queries.texts:
            raise InputError(f"{queries.name} has vectors only: use --mix vector=1")
        if not target.info.HasField("model"):
            raise InputError(
                f"{target.address} has no encoder, texts cannot be asked of it: use --mix vector=1"
            )
        messages["text"] = [{"query": {"text": text}, "k": k} for text in queries.texts]
        messages["encode"] = [
            {"texts": [text], "kind": "TEXT_KIND_QUERY"} for text in queries.texts
        ]
        words = [len(text.split()) for text in queries.texts]
        told.append(f"{len(words):,} texts of {sum(words) / len(words):.1f} words")
    if weights["vector"]:
        vectors, how = _vectors(queries, target, draw)
        messages["vector"] = [{"query": {"vector": vector}, "k": k} for vector in vectors]
        terms = [len(vector["values"]) for vector in vectors]
        told.append(f"{len(terms):,} vectors of {sum(terms) / len(terms):.1f} terms ({how})")
    for kind in messages:
        draw.shuffle(messages[kind])
    kinds = draw.choices(
        list(messages), [weights[kind] for kind in messages], k=_length(messages, weights)
    )
    places = Counter[str]()
    with write_aside(path, "w") as file:
        requests = []
        for kind in kinds:
            message = messages[kind][places[kind] % len(messages[kind])]
            places[kind] += 1
            method = "Encode" if kind == "encode" else "Search"
            requests.append({"kind": kind, "method": method, "message": message})
        json.dump(requests, file)
    return f"{queries.name}: " + ", ".join(told)


def _length(messages: Mapping[str, Sequence[Any]], weights: Mapping[str, float]) -> int:
    """Enough requests for every query of every kind to come up, about."""
    total = sum(weights[kind] for kind in messages)
    needed = max(len(messages[kind]) * total / weights[kind] for kind in messages if weights[kind])
    return min(LONGEST, round(needed))


def _vectors(
    queries: Queries, target: Target, draw: random.Random
) -> tuple[list[dict[str, Any]], str]:
    if not queries.vectors:
        texts = list(queries.texts)
        draw.shuffle(texts)
        return _encoded(texts[:ENCODED], target), "encoded by the target"
    if all(key.isdigit() for vector in queries.vectors for key in vector):
        return _by_id(
            [{int(k): w for k, w in one.items()} for one in queries.vectors], target
        ), "by term id"
    if target.info.index.string_terms:
        named = [
            {"tokens": list(one), "values": [float(weight) for weight in one.values()]}
            for one in queries.vectors
        ]
        return named, "by token string"
    # The target has other terms: they are taken by rank of frequency, which keeps lengths and skew.
    frequency = Counter(token for vector in queries.vectors for token in vector)
    ranked = sorted(frequency, key=lambda token: (-frequency[token], token))
    places = {token: term for term, token in enumerate(ranked)}
    rows = [
        {places[token]: weight for token, weight in vector.items()} for vector in queries.vectors
    ]
    return _by_id(rows, target), "term ids by rank of frequency in the file"


def _by_id(rows: Sequence[Mapping[int, float]], target: Target) -> list[dict[str, Any]]:
    """Vectors of the terms that the target knows."""
    size = target.info.index.vocabulary_size
    kept = [{term: weight for term, weight in row.items() if term < size} for row in rows]
    found = [
        {"indices": list(row), "values": [float(weight) for weight in row.values()]}
        for row in kept
        if row
    ]
    if not found:
        raise InputError(f"no query has a term below the target's vocabulary_size {size}")
    return found


def _encoded(texts: Sequence[str], target: Target) -> list[dict[str, Any]]:
    if not target.info.HasField("model"):
        raise InputError(
            f"{target.address} has no encoder, and the file no vectors: give queries with 'vector'"
        )
    vectors = []
    at_once = min(AT_ONCE, target.info.limits.encode_texts)
    for first in range(0, len(texts), at_once):
        request = pb.EncodeRequest(texts=texts[first : first + at_once], kind=pb.TEXT_KIND_QUERY)
        for encoding in target.call("Encode", request).encodings:
            vector = encoding.vector
            if vector.indices:
                vectors.append({"indices": list(vector.indices), "values": list(vector.values)})
    if not vectors:
        raise UnavailableError(
            f"{target.address} gave no vector with a term for {len(texts)} texts"
        )
    return vectors


def read_requests(path: Path) -> list[pb.SearchRequest]:
    """The searches among prepared requests, as messages."""
    return [
        ParseDict(one["message"], pb.SearchRequest())
        for one in json.loads(path.read_text())
        if one["method"] == "Search"
    ]
