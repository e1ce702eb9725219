"""Turn requests into queries, checked; every complaint names the field, the value and the bound."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from ...core.document import TextKind
from ...core.errors import InputError
from ...core.filters import Filter
from ...core.vectors import Vector
from ...engine.backend import CollectionInfo, Query
from ...v1 import retrieval_pb2 as pb
from ..settings import Limits

DEFAULT_K = 10
SHOWN = 60  # characters of a caller's value that a complaint repeats


def search_query(request: pb.SearchRequest, limits: Limits, info: CollectionInfo) -> Query:
    """Return the query of a Search.

    Raises:
        InputError: a field breaks its rule.
    """
    k = _k(request, limits)
    if request.explain and k > limits.explain_k:
        raise InputError(f"k: {k} is too many with explain; at most {limits.explain_k}")
    if request.columns and (request.explain or request.with_document or request.with_vector):
        raise InputError("columns: true is not allowed with explain, with_document or with_vector")
    return _query(
        request.query,
        limits,
        info,
        k=k,
        offset=_offset(request, k, limits),
        filter=resolved_filter(request, info),
        score_threshold=_score_threshold(request),
        explain=request.explain,
        with_document=request.with_document,
        with_vector=request.with_vector,
        allow_partial=request.allow_partial,
        min_generation=request.min_generation,
    )


def check_batch(request: pb.SearchBatchRequest, limits: Limits) -> None:
    """Raise InputError unless a batch has an allowed number of queries."""
    count, most = len(request.requests), limits.batch_searches
    if not 1 <= count <= most:
        raise InputError(f"requests: {count} requests; 1 to {most} allowed")


def explain_query(
    request: pb.ExplainRequest, limits: Limits, info: CollectionInfo
) -> tuple[Query, list[str]]:
    """Return the query of an Explain, as deep as allowed, and the ids; raises alike."""
    if not 1 <= len(request.ids) <= limits.explain_k:
        raise InputError(f"ids: {len(request.ids)} ids; 1 to {limits.explain_k} allowed")
    query = _query(request.query, limits, info, k=limits.k, with_document=request.with_document)
    return query, list(request.ids)


def verify_query(request: pb.VerifyRequest, limits: Limits, info: CollectionInfo) -> Query:
    """Return the query of a Verify; raises as :func:`search_query`."""
    filter = resolved_filter(request, info)
    return _query(request.query, limits, info, k=_k(request, limits), filter=filter)


def encode_texts(request: pb.EncodeRequest, limits: Limits) -> tuple[list[str], TextKind]:
    """Return the texts of an Encode and their kind.

    Raises:
        InputError: a field breaks its rule.
    """
    if request.kind not in (pb.TEXT_KIND_QUERY, pb.TEXT_KIND_DOCUMENT):
        raise InputError(
            f"kind: {request.kind} is unknown; TEXT_KIND_QUERY (1) or TEXT_KIND_DOCUMENT (2)"
        )
    if not 1 <= len(request.texts) <= limits.encode_texts:
        raise InputError(f"texts: {len(request.texts)} texts; 1 to {limits.encode_texts} allowed")
    for number, text in enumerate(request.texts):
        check_text(f"texts[{number}]", text, limits)
    return list(request.texts), "query" if request.kind == pb.TEXT_KIND_QUERY else "document"


def _k(request: pb.SearchRequest | pb.VerifyRequest, limits: Limits) -> int:
    k = request.k if request.HasField("k") else DEFAULT_K
    if not 1 <= k <= limits.k:
        raise InputError(f"k: {k} is out of range; 1 to {limits.k}")
    return k


def _offset(request: pb.SearchRequest, k: int, limits: Limits) -> int:
    if request.offset + k > limits.k:
        raise InputError(
            f"offset: {request.offset} and k {k} reach {request.offset + k}; at most {limits.k}; "
            "narrow the search by a filter"
        )
    return request.offset


def _score_threshold(request: pb.SearchRequest) -> float | None:
    if not request.HasField("score_threshold"):
        return None
    if not math.isfinite(request.score_threshold):
        raise InputError(f"score_threshold: {request.score_threshold} is not finite")
    return request.score_threshold


def resolved_filter(request: Any, info: CollectionInfo) -> Filter | None:
    """Return the filter of a request, resolved; None for one that holds for every document.

    Args:
        request: A message that has a field ``filter``.
        info: Of the collection.

    Raises:
        InputError: it is not valid, or names a field that is not declared.
    """
    if not request.HasField("filter"):
        return None
    try:
        plain = json_format.MessageToDict(request.filter, preserving_proto_field_name=True)
    except (ValueError, json_format.Error) as error:  # a number that is not finite
        raise InputError(f"filter: {error}") from None
    return Filter.parse(plain).resolve(info.index.fields) or None


def _query(query: pb.Query, limits: Limits, info: CollectionInfo, **options: Any) -> Query:
    match query.WhichOneof("kind"):
        case "text":
            check_text("query.text", query.text, limits)
            if not query.text.strip():
                raise InputError("query.text: blank; at least one word is needed")
            return Query(text=query.text, **options)
        case "vector":
            most = limits.query_terms
            vector, unknown = sparse_vector("query.vector", query.vector, most, info)
            return Query(vector=vector, unknown_terms=unknown, **options)
        case _:
            raise InputError("query: not set; a text or a vector is needed")


def check_text(field: str, text: str, limits: Limits) -> None:
    """Raise InputError if a text is longer than allowed."""
    # A character is one to four bytes of UTF-8, so most texts need not be encoded to be checked.
    if len(text) * 4 > limits.text_bytes and (size := len(text.encode())) > limits.text_bytes:
        raise InputError(f"{field}: {size} bytes; at most {limits.text_bytes}")


def sparse_vector(
    name: str, vector: pb.SparseVector, most: int, info: CollectionInfo
) -> tuple[Vector, int]:
    """Return a vector without the terms that the collection does not have, and their number.

    Args:
        name: Of the field, for errors.
        vector: As it came; weights of 0 are left out.
        most: Terms at most.
        info: Of the collection.

    Raises:
        InputError: a field of it breaks its rule.
    """
    # Lengths before contents: converting millions of numbers would block the event loop.
    if vector.tokens and vector.indices:
        raise InputError(f"{name}: both indices and tokens are set; one of them is allowed")
    field = f"{name}.tokens" if vector.tokens else f"{name}.indices"
    count = len(vector.tokens) or len(vector.indices)
    if count > most:
        raise InputError(f"{field}: {count} terms; at most {most}")
    if count != len(vector.values):
        raise InputError(
            f"{field}: {count} terms but {len(vector.values)} in {name}.values; "
            "one value per term is needed"
        )
    weights = np.fromiter(vector.values, np.float32, count)
    if (bad := np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))).size:
        where = bad[0]
        raise InputError(
            f"{name}.values[{where}]: {weights[where]} is not allowed; finite and > 0, or 0 "
            "for an absent term"
        )
    if vector.tokens:
        terms = _terms_of_tokens(f"{name}.tokens", vector, info)
    else:
        terms = np.fromiter(vector.indices, np.int64, count)
        terms[terms >= info.index.vocabulary_size] = -1
    order = np.argsort(terms, kind="stable")
    terms, weights = terms[order], weights[order]
    known = terms >= 0
    repeated = np.flatnonzero((terms[1:] == terms[:-1]) & known[1:])
    if repeated.size:
        where = order[repeated[0] + 1]
        named = repr(vector.tokens[where])[:SHOWN] if vector.tokens else terms[repeated[0]]
        raise InputError(f"{field}[{where}]: {named} is repeated; each term once")
    kept = known & (weights > 0)
    return (terms[kept].astype(np.int32), weights[kept]), int(count - known.sum())


def _terms_of_tokens(
    field: str, vector: pb.SparseVector, info: CollectionInfo
) -> NDArray[np.int64]:
    """Return the term of each token string, -1 for those that the collection does not have."""
    if not info.terms_by_token:
        raise InputError(f"{field}: this index was built from numbered terms; give indices")
    known = info.terms_by_token
    return np.array([known.get(token, -1) for token in vector.tokens], dtype=np.int64)
