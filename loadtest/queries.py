"""Prepare the requests of a load test: the distinct queries of a file, mixed by weight."""

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
from ..core.files import write_aside
from ..core.lines import read_jsonl
from ..v1 import retrieval_pb2 as pb
from .target import Target

KINDS = ("text", "vector", "encode")
LARGEST_REQUEST_LIST = 10_000  # requests; k6 then starts again with the first one
LARGEST_ENCODED_TEXTS = 256  # that the target encodes when the file has no vectors
ENCODE_BATCH = 16  # texts


@dataclass(frozen=True)
class Queries:
    """The content of a query file: texts, and vectors as {term string or id: weight}."""

    name: str
    texts: tuple[str, ...]
    vectors: tuple[Mapping[str, float], ...]


def read_mix(text: str) -> dict[str, float]:
    """Parse a mix such as ``text=1,vector=0.5``; kinds that it does not name weigh 0.

    Raises:
        InputError: the form is wrong, a kind is unknown, or no weight is above 0.
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
                f"mix: {text!r} is malformed; must be like text=1,vector=0.5, with kinds "
                f"{', '.join(KINDS)}"
            )
        weights[kind] = weight
    if not any(weights.values()):
        raise InputError(f"mix: {text!r} has no weight above 0")
    return weights


def read_queries(path: Path) -> Queries:
    """Read queries: JSON lines with ``text`` (or ``contents``), ``vector``, or both.

    Raises:
        InputError: the file is missing or empty, or a line has neither.
    """
    texts, vectors = [], []
    for line, values in read_jsonl(path):
        text, vector = values.get("text", values.get("contents")), values.get("vector")
        if isinstance(text, str) and text.strip():
            texts.append(text)
        if isinstance(vector, dict) and vector:
            vectors.append(vector)
        elif not isinstance(text, str):
            raise line.error("needs 'text', a string, or 'vector', an object {term: weight}")
    if not texts and not vectors:
        raise InputError(f"{path}: it has no queries")
    return Queries(path.name, tuple(dict.fromkeys(texts)), tuple(vectors))


def prepare(
    queries: Queries, weights: Mapping[str, float], target: Target, *, k: int, seed: int, path: Path
) -> str:
    """Write the requests in the form that the scripts read.

    Args:
        queries: the queries.
        weights: weight of each kind of request.
        target: provides its vocabulary, and vectors if the file has none.
        k: hits per search.
        seed: of order and mix.
        path: the file to write.

    Returns:
        A description of the requests in one line.

    Raises:
        InputError: the mix needs texts or an encoder, and there are none.
        UnavailableError: the target does not answer.
    """
    draw = random.Random(seed)
    messages: dict[str, list[dict[str, Any]]] = {}
    parts = []
    if weights["text"] or weights["encode"]:
        if not queries.texts:
            raise InputError(f"{queries.name}: it has vectors only; use --mix vector=1")
        if not target.info.HasField("model"):
            raise InputError(f"{target.address}: it has no encoder for texts; use --mix vector=1")
        messages["text"] = [{"query": {"text": text}, "k": k} for text in queries.texts]
        messages["encode"] = [
            {"texts": [text], "kind": "TEXT_KIND_QUERY"} for text in queries.texts
        ]
        words = [len(text.split()) for text in queries.texts]
        parts.append(f"{len(words):,} texts of {sum(words) / len(words):.1f} words")
    if weights["vector"]:
        vectors, how = _vectors(queries, target, draw)
        messages["vector"] = [{"query": {"vector": vector}, "k": k} for vector in vectors]
        terms = [len(vector["values"]) for vector in vectors]
        parts.append(f"{len(terms):,} vectors of {sum(terms) / len(terms):.1f} terms ({how})")
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
    return f"{queries.name}: " + ", ".join(parts)


def _length(messages: Mapping[str, Sequence[Any]], weights: Mapping[str, float]) -> int:
    """Return how many requests it takes for about every query of every kind to occur."""
    total = sum(weights[kind] for kind in messages)
    needed = max(len(messages[kind]) * total / weights[kind] for kind in messages if weights[kind])
    return min(LARGEST_REQUEST_LIST, round(needed))


def _vectors(
    queries: Queries, target: Target, draw: random.Random
) -> tuple[list[dict[str, Any]], str]:
    if not queries.vectors:
        texts = list(queries.texts)
        draw.shuffle(texts)
        return _encoded(texts[:LARGEST_ENCODED_TEXTS], target), "encoded by the target"
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
    # The target has other terms: ranks of frequency keep the lengths and the skew.
    frequency = Counter(token for vector in queries.vectors for token in vector)
    ranked = sorted(frequency, key=lambda token: (-frequency[token], token))
    places = {token: term for term, token in enumerate(ranked)}
    rows = [
        {places[token]: weight for token, weight in vector.items()} for vector in queries.vectors
    ]
    return _by_id(rows, target), "term ids by rank of frequency in the file"


def _by_id(rows: Sequence[Mapping[int, float]], target: Target) -> list[dict[str, Any]]:
    """Return vectors of the terms that the target has."""
    size = target.info.index.vocabulary_size
    kept = [{term: weight for term, weight in row.items() if term < size} for row in rows]
    found = [
        {"indices": list(row), "values": [float(weight) for weight in row.values()]}
        for row in kept
        if row
    ]
    if not found:
        raise InputError(f"queries: all term ids are at least {size}, the target's vocabulary_size")
    return found


def _encoded(texts: Sequence[str], target: Target) -> list[dict[str, Any]]:
    if not target.info.HasField("model"):
        raise InputError(
            f"{target.address}: it has no encoder, and the file no vectors; give queries with "
            "'vector'"
        )
    vectors = []
    at_once = min(ENCODE_BATCH, target.info.limits.encode_texts)
    for first in range(0, len(texts), at_once):
        request = pb.EncodeRequest(texts=texts[first : first + at_once], kind=pb.TEXT_KIND_QUERY)
        for encoding in target.call("Encode", request).encodings:
            vector = encoding.vector
            if vector.indices:
                vectors.append({"indices": list(vector.indices), "values": list(vector.values)})
    if not vectors:
        raise UnavailableError(f"{target.address}: it returned no terms for {len(texts)} texts")
    return vectors


def read_requests(path: Path) -> list[pb.SearchRequest]:
    """Return the searches among prepared requests, as messages."""
    return [
        ParseDict(one["message"], pb.SearchRequest())
        for one in json.loads(path.read_text())
        if one["method"] == "Search"
    ]
