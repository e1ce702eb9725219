"""Requests checked and turned into work; every complaint names the field, the value and the bound."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...core.errors import InputError
from ...core.vectors import first_bad_weight
from ...engine.local import Kind, Vector, Work
from ...v1 import retrieval_pb2 as pb
from ..settings import Limits

DEFAULT_K = 10


def search_work(
    request: pb.SearchRequest, limits: Limits, vocabulary_size: int, terms: Mapping[str, int]
) -> Work:
    """The work of one search.

    Args:
        request: as it came.
        limits: the bounds in force.
        vocabulary_size: of the index.
        terms: term of each token string, for an index of string-keyed vectors.

    Raises:
        InputError: a field breaks its rule.
    """
    work = query_work(request, limits, vocabulary_size, terms)
    if request.explain and work.k > limits.explain_k:
        raise InputError(f"k is {work.k}, with explain at most {limits.explain_k} is allowed")
    work.explain, work.fetch = request.explain, request.with_document
    work.allow_partial = request.allow_partial
    return work


def query_work(
    request: pb.SearchRequest | pb.VerifyRequest,
    limits: Limits,
    vocabulary_size: int,
    terms: Mapping[str, int],
) -> Work:
    """The work of a query with its ``k``; arguments and errors as :func:`search_work`."""
    k = request.k if request.HasField("k") else DEFAULT_K
    if not 1 <= k <= limits.k:
        raise InputError(f"k is {k}, must be 1 to {limits.k}")
    match request.query.WhichOneof("kind"):
        case "text":
            _check_text("query.text", request.query.text, limits)
            if not request.query.text.strip():
                raise InputError("query.text is blank, must have at least one word")
            return Work(text=request.query.text, k=k)
        case "vector":
            return Work(vector=_vector(request.query.vector, limits, vocabulary_size, terms), k=k)
        case _:
            raise InputError("query is not set, must be a text or a vector")


def encode_works(request: pb.EncodeRequest, limits: Limits) -> list[Work]:
    """The works of an Encode, one per text.

    Raises:
        InputError: a field breaks its rule.
    """
    if request.kind not in (pb.TEXT_KIND_QUERY, pb.TEXT_KIND_DOCUMENT):
        raise InputError(
            f"kind is {request.kind}, must be TEXT_KIND_QUERY (1) or TEXT_KIND_DOCUMENT (2)"
        )
    if not 1 <= len(request.texts) <= limits.encode_texts:
        raise InputError(
            f"texts has {len(request.texts)} texts, must have 1 to {limits.encode_texts}"
        )
    for number, text in enumerate(request.texts):
        _check_text(f"texts[{number}]", text, limits)
    kind: Kind = "query" if request.kind == pb.TEXT_KIND_QUERY else "document"
    return [Work(text=text, kind=kind) for text in request.texts]


def _check_text(field: str, text: str, limits: Limits) -> None:
    # A character is one to four bytes of UTF-8, so most texts need no encoding to be judged.
    if len(text) * 4 > limits.text_bytes and (size := len(text.encode())) > limits.text_bytes:
        raise InputError(f"{field} has {size} bytes, at most {limits.text_bytes} are allowed")


def _vector(
    vector: pb.SparseVector, limits: Limits, vocabulary_size: int, known: Mapping[str, int]
) -> Vector:
    if vector.tokens:
        if vector.indices:
            raise InputError("query.vector has both indices and tokens, must have one of them")
        terms = _terms_of(vector, known)
        field = "query.vector.tokens"
    else:
        terms = np.fromiter(vector.indices, np.int64, len(vector.indices))
        field = "query.vector.indices"
    if len(terms) != len(vector.values):
        raise InputError(
            f"{field} has {len(terms)} entries but query.vector.values {len(vector.values)}"
        )
    if len(terms) > limits.query_terms:
        raise InputError(
            f"{field} has {len(terms)} terms, at most {limits.query_terms} are allowed"
        )
    weights = np.fromiter(vector.values, np.float32, len(vector.values))
    if (where := first_bad_weight(weights)) is not None:
        raise InputError(
            f"query.vector.values[{where}] is {weights[where]}, must be finite and > 0"
        )
    if (bad := np.flatnonzero(terms >= vocabulary_size)).size:
        where = bad[0]
        raise InputError(f"{field}[{where}] is {terms[where]}, must be 0 to {vocabulary_size - 1}")
    order = np.argsort(terms, kind="stable")
    terms = terms[order]
    if (repeated := np.flatnonzero(terms[1:] == terms[:-1])).size:
        where = order[repeated[0] + 1]
        named = repr(vector.tokens[where]) if vector.tokens else terms[repeated[0]]
        raise InputError(
            f"{field}[{where}] is {named}, which is there already; a term may be given once"
        )
    return terms.astype(np.int32), weights[order]


def _terms_of(vector: pb.SparseVector, known: Mapping[str, int]) -> np.ndarray:
    if not known:
        raise InputError(
            "query.vector.tokens is set, but this index knows terms by number: give indices"
        )
    try:
        return np.array([known[token] for token in vector.tokens], dtype=np.int64)
    except KeyError:
        where = next(i for i, token in enumerate(vector.tokens) if token not in known)
        raise InputError(
            f"query.vector.tokens[{where}] is {vector.tokens[where]!r}, not in the index's "
            "vocabulary"
        ) from None
