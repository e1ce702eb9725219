"""Turn a caller's values into messages, checked before anything is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

from google.protobuf import json_format

from ..core.document import Document
from ..core.errors import InputError
from ..core.filters import Filter
from ..v1 import documents_pb2 as document_pb
from ..v1 import retrieval_pb2 as pb

Vector = Mapping[int, float] | Mapping[str, float]
"""Term id -> weight, or token string -> weight."""

Query = str | Vector
"""A text or a vector."""

UPSERT_BATCH = 64  # documents of a message: what the service encodes before it commits
MAX_K = 2**31 - 1
MAX_WEIGHT = 3.4028234e38  # of float32
UNEVEN = "vectors: not as many as documents; one for each of them, or None, is needed"
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
    min_generation: int = 0,
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
        min_generation=_generation("min_generation", min_generation),
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
    return pb.ExplainRequest(query=_query(query), ids=_ids(ids), with_document=with_document)


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


def upsert_requests(
    documents: Iterable[Document],
    vectors: Iterable[Vector | None] | None,
    if_version: int | None,
    size: int | None = None,
) -> Iterator[document_pb.UpsertRequest]:
    """Yield the messages of upserts of ``size`` documents each, of all of them without a size.

    Raises:
        InputError: a value that no service accepts, or not as many vectors as documents.
    """
    if isinstance(documents, Document):
        raise InputError("documents: one document given; a list of documents is needed")
    given = repeat(None) if vectors is None else iter(vectors)
    items: list[document_pb.UpsertItem] = []
    for number, document in enumerate(documents):
        try:
            vector = next(given)
        except StopIteration:
            raise InputError(UNEVEN) from None
        items.append(_item(f"documents[{number}]", document, vector, if_version))
        if len(items) == size:
            yield document_pb.UpsertRequest(documents=items)
            items = []
    if vectors is not None and next(given, items) is not items:
        raise InputError(UNEVEN)
    if items or size is None:
        yield document_pb.UpsertRequest(documents=items)


def delete_request(ids: Sequence[str], if_version: int | None) -> document_pb.DeleteRequest:
    """Return the message of a Delete; raises as :func:`search_request`."""
    request = document_pb.DeleteRequest(ids=_ids(ids))
    if if_version is not None:
        request.if_version = _generation("if_version", if_version)
    return request


def get_request(ids: Sequence[str], with_vector: bool) -> document_pb.GetRequest:
    """Return the message of a Get; raises as :func:`search_request`."""
    return document_pb.GetRequest(ids=_ids(ids), with_vector=with_vector)


def delete_where_request(filter: Filter | Mapping[str, Any]) -> document_pb.DeleteRequest:
    """Return the message of a Delete by filter; raises as :func:`search_request`."""
    return document_pb.DeleteRequest(filter=_filter(filter))


def count_request(filter: Filter | Mapping[str, Any] | None) -> document_pb.CountRequest:
    """Return the message of a Count; raises as :func:`search_request`."""
    return document_pb.CountRequest(filter=_filter(filter))


def scroll_request(
    limit: int, cursor: str, with_vector: bool, filter: Filter | Mapping[str, Any] | None
) -> document_pb.ScrollRequest:
    """Return the message of a Scroll; raises as :func:`search_request`."""
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_K:
        raise InputError(f"limit: {_shown(limit)} is not allowed; a whole number of at least 1")
    return document_pb.ScrollRequest(
        limit=limit, cursor=cursor, with_vector=with_vector, filter=_filter(filter)
    )


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
    return pb.Query(vector=sparse_vector("query", query))


def sparse_vector(field: str, vector: Vector) -> pb.SparseVector:
    """Return a vector as a message; raises as :func:`search_request`."""
    weights = {term: _weight(field, term, weight) for term, weight in vector.items()}
    terms: list[Any] = [term for term, weight in weights.items() if weight]
    values = [weights[term] for term in terms]
    if terms and all(isinstance(term, str) for term in terms):
        for term in terms:
            _text(field, term)
        return pb.SparseVector(tokens=terms, values=values)
    for term in terms:
        if not _is_term(term):
            raise InputError(
                f"{field}: term {_shown(term)} is not allowed; all term ids from 0 to {2**32 - 1}, "
                "or all token strings"
            )
    return pb.SparseVector(indices=map(int, terms), values=values)


def _item(
    field: str, document: Document, vector: Vector | None, if_version: int | None
) -> document_pb.UpsertItem:
    if not isinstance(document, Document):
        raise InputError(f"{field}: {_shown(document)} is not a csplade.Document")
    item = document_pb.UpsertItem(id=_text(f"{field}.id", document.id))
    item.document.title = _text(f"{field}.title", document.title)
    item.document.text = _text(f"{field}.text", document.text)
    if document.metadata:
        item.document.metadata_json = _metadata(f"{field}.metadata", document.metadata)
    if vector is not None:
        if not isinstance(vector, Mapping):
            raise InputError(f"{field}: vector {_shown(vector)} is no mapping of term to weight")
        item.vector.CopyFrom(sparse_vector(field, vector))
    if if_version is not None:
        item.if_version = _generation("if_version", if_version)
    return item


def _metadata(field: str, metadata: Any) -> str:
    if not isinstance(metadata, Mapping):
        raise InputError(f"{field}: {_shown(metadata)} is not a mapping")
    try:
        return json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{field}: not JSON: {error}") from None


def _ids(ids: Sequence[str]) -> list[str]:
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise InputError(f"ids: {_shown(ids)} is not a list; a list of document ids is needed")
    return [_text(f"ids[{number}]", id) for number, id in enumerate(ids)]


def _generation(field: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
        raise InputError(f"{field}: {_shown(value)} is not allowed; a whole number of at least 0")
    return value


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


def _weight(field: str, term: Any, weight: Any) -> float:
    try:
        value = float(weight)
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(weight, str) or not 0 <= value <= MAX_WEIGHT:
        raise InputError(
            f"{field}: weight {_shown(weight)} of term {_shown(term)} is not allowed; "
            "> 0 and finite in float32, or 0 for an absent term"
        )
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
