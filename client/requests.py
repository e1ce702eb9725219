"""Turn a caller's values into messages, checked before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import json_format

from ..core.errors import InputError
from ..core.filters import Filter
from ..v1 import retrieval_pb2 as pb

Query = str | Mapping[int, float] | Mapping[str, float]
"""A text, or a vector: term id -> weight, or token string -> weight."""

MAX_K = 2**31 - 1
MAX_WEIGHT = 3.4028234e38  # of float32
KINDS = {"query": pb.TEXT_KIND_QUERY, "document": pb.TEXT_KIND_DOCUMENT}


def search_request(
    query: Query,
    k: int,
    *,
    filter: Filter | Mapping[str, Any] | None = None,
    offset: int = 0,
    score_threshold: float | None = None,
    explain: bool = False,
    with_document: bool = False,
    with_vector: bool = False,
    allow_partial: bool = False,
) -> pb.SearchRequest:
    """Return the message of a Search, which asks for columns where these hold all that is wanted.

    Raises InputError for a value that no service accepts.
    """
    if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset <= MAX_K:
        raise InputError(f"offset: {_shown(offset)} is not allowed; a whole number of at least 0")
    if score_threshold is not None and not _is_finite(score_threshold):
        raise InputError(f"score_threshold: {_shown(score_threshold)} is not a finite number")
    return pb.SearchRequest(
        query=_query(query),
        k=check_k(k),
        filter=_filter(filter),
        offset=offset,
        score_threshold=score_threshold,
        explain=explain,
        with_document=with_document,
        with_vector=with_vector,
        allow_partial=allow_partial,
        columns=not (explain or with_document or with_vector),
    )


def batch_request(queries: Sequence[Query], k: int, **options: Any) -> pb.SearchBatchRequest:
    """Return the message of a SearchBatch; options and errors as of :func:`search_request`."""
    check_queries(queries)
    return pb.SearchBatchRequest(requests=[search_request(one, k, **options) for one in queries])


def verify_request(
    query: Query, k: int, filter: Filter | Mapping[str, Any] | None
) -> pb.VerifyRequest:
    """Return the message of a Verify; raises as :func:`search_request`."""
    return pb.VerifyRequest(query=_query(query), k=check_k(k), filter=_filter(filter))


def explain_request(query: Query, ids: Sequence[str], with_document: bool) -> pb.ExplainRequest:
    """Return the message of an Explain; raises as :func:`search_request`."""
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise InputError(f"ids: {_shown(ids)} is not a list; a list of document ids is needed")
    ids = [_text(f"ids[{number}]", id) for number, id in enumerate(ids)]
    return pb.ExplainRequest(query=_query(query), ids=ids, with_document=with_document)


def encode_request(texts: Sequence[str], kind: str, decode: bool) -> pb.EncodeRequest:
    """Return the message of an Encode; raises as :func:`search_request`."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise InputError(f"texts: {_shown(texts)} is not a list; a list of strings is needed")
    texts = list(texts)
    for number, text in enumerate(texts):
        _text(f"texts[{number}]", text)
    if kind not in KINDS:
        raise InputError(f"kind: {_shown(kind)} is unknown; {' or '.join(KINDS)}")
    return pb.EncodeRequest(texts=texts, kind=KINDS[kind], decode=decode)


def check_k(k: int) -> int:
    """Return ``k``. Raises InputError unless it is a whole number of at least 1."""
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MAX_K:
        raise InputError(f"k: {_shown(k)} is not allowed; a whole number of at least 1")
    return k


def check_queries(queries: Any) -> None:
    """Raise InputError for a single query where many are needed."""
    if isinstance(queries, str | Mapping):
        raise InputError(f"queries: {_shown(queries)} is one query; a list of queries is needed")


def _filter(filter: Filter | Mapping[str, Any] | None) -> pb.Filter | None:
    if filter is None:
        return None
    checked = filter if isinstance(filter, Filter) else Filter.parse(filter)
    try:
        return json_format.ParseDict(checked.to_json(), pb.Filter())
    except (json_format.ParseError, ValueError) as error:  # not finite, or not valid Unicode
        raise InputError(f"filter: {' '.join(str(error).split())}") from None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _query(query: Query) -> pb.Query:
    if isinstance(query, str):
        return pb.Query(text=_text("query", query))
    if not isinstance(query, Mapping):
        raise InputError(
            f"query: {_shown(query)} is not allowed; a text, or a mapping of term to weight"
        )
    weights = {term: _weight(term, weight) for term, weight in query.items()}
    terms: list[Any] = [term for term, weight in weights.items() if weight]
    values = [weights[term] for term in terms]
    if terms and all(isinstance(term, str) for term in terms):
        for term in terms:
            _text("query", term)
        return pb.Query(vector=pb.SparseVector(tokens=terms, values=values))
    for term in terms:
        if not _is_term(term):
            raise InputError(
                f"query: term {_shown(term)} is not allowed; all term ids from 0 to {2**32 - 1}, "
                "or all token strings"
            )
    return pb.Query(vector=pb.SparseVector(indices=map(int, terms), values=values))


def _text(field: str, text: Any) -> str:
    if not isinstance(text, str):
        raise InputError(f"{field}: {_shown(text)} is not a string")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{field}: {_shown(text)} is not valid Unicode") from None
    return text


def _is_term(term: Any) -> bool:
    return hasattr(term, "__index__") and not isinstance(term, bool) and 0 <= int(term) < 2**32


def _weight(term: Any, weight: Any) -> float:
    try:
        value = float(weight)
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(weight, str) or not 0 <= value <= MAX_WEIGHT:
        raise InputError(
            f"query: weight {_shown(weight)} of term {_shown(term)} is not allowed; "
            "> 0 and finite in float32, or 0 for an absent term"
        )
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
