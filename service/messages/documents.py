"""The messages of DocumentService: requests checked, results made into replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ...core.document import Document, parse_id
from ...core.errors import CspladeError, InputError
from ...core.filters import Filter
from ...core.results import StoredDocument, WriteResult
from ...engine.backend import CollectionInfo, Page, Written
from ...index import Upsert
from ...v1 import documents_pb2 as pb
from ...v1.retrieval_pb2 import SparseVector
from ..settings import Limits, Settings
from . import replies
from .requests import SHOWN, check_text, resolved_filter, sparse_vector

ID_BYTES = 512
DEFAULT_LIMIT = 100  # documents of a page
PAGE_SHARE = 0.9  # of server.send_bytes; the rest is for what surrounds the documents

PublicError = Callable[[CspladeError], CspladeError]
"""Returns the error that the caller may see."""


def upserts(
    request: pb.UpsertRequest, limits: Limits, info: CollectionInfo
) -> list[Upsert | WriteResult]:
    """Return the documents of an Upsert; a failed result for each that breaks a rule.

    Raises:
        InputError: too many documents, or none.
    """
    count = len(request.documents)
    if not 1 <= count <= limits.documents:
        raise InputError(f"documents: {count} documents; 1 to {limits.documents} allowed")
    checked: list[Upsert | WriteResult] = []
    for number, item in enumerate(request.documents):
        try:
            checked.append(_upsert(f"documents[{number}]", item, limits, info))
        except InputError as error:
            checked.append(WriteResult(item.id, "failed", 0, error))
    return checked


def deleted_ids(request: pb.DeleteRequest, limits: Limits) -> tuple[list[str], int | None]:
    """Return the ids of a Delete and the version that they must have; raises InputError."""
    if_version = request.if_version if request.HasField("if_version") else None
    if if_version == 0:
        raise InputError("if_version: 0 is not allowed; a stored document has version 1 or more")
    return _ids(request.ids, limits), if_version


def deleted_filter(request: pb.DeleteRequest, info: CollectionInfo) -> Filter:
    """Return the filter of a Delete, resolved; raises InputError."""
    if request.ids or request.HasField("if_version"):
        raise InputError("filter: ids or if_version are set too; set ids or a filter")
    if (filter := resolved_filter(request, info)) is None:
        raise InputError("filter: it holds for every document; add a condition")
    return filter


def wanted_ids(request: pb.GetRequest, limits: Limits) -> list[str]:
    """Return the ids of a Get; raises InputError."""
    return _ids(request.ids, limits)


def page_of(request: pb.ScrollRequest, limits: Limits) -> tuple[int, int]:
    """Return the place after which a page begins, and the number of its documents at most.

    Raises:
        InputError: a limit out of range, or a cursor that Scroll never returned.
    """
    limit = min(DEFAULT_LIMIT, limits.documents)
    if request.HasField("limit"):
        limit = request.limit
    if not 1 <= limit <= limits.documents:
        raise InputError(f"limit: {limit} is out of range; 1 to {limits.documents}")
    cursor = request.cursor
    if not cursor:
        return -1, limit
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 10):
        raise InputError(
            f"cursor: {cursor[:SHOWN]!r} is not a cursor; send next_cursor of a ScrollResponse"
        )
    return int(cursor), limit


def write_results(written: Sequence[WriteResult], public: PublicError) -> list[pb.WriteResult]:
    """Return the results of a write."""
    return [_result(one, public) for one in written]


def upsert_reply(written: Written, public: PublicError) -> pb.UpsertResponse:
    """Return the reply to Upsert."""
    results = write_results(written.results, public)
    return pb.UpsertResponse(results=results, generation=written.generation)


def delete_reply(written: Written, deleted: int, public: PublicError) -> pb.DeleteResponse:
    """Return the reply to Delete, which deleted so many documents."""
    results = write_results(written.results, public)
    return pb.DeleteResponse(results=results, generation=written.generation, deleted=deleted)


def get_reply(
    ids: Sequence[str], found: Sequence[StoredDocument | None], generation: int
) -> pb.GetResponse:
    """Return the reply to Get."""
    documents = [
        pb.StoredDocument(id=id) if one is None else _stored(one)
        for id, one in zip(ids, found, strict=True)
    ]
    return pb.GetResponse(documents=documents, generation=generation)


def scroll_reply(page: Page, limit: int, settings: Settings) -> pb.ScrollResponse:
    """Return the reply to Scroll: as many documents of the page as the service may send.

    A single document is sent alone however large it is; the service checks it.
    """
    reply = pb.ScrollResponse(generation=page.generation)
    room = int(settings.server.send_bytes * PAGE_SHARE)
    for document in page.documents:
        message = _stored(document)
        room -= message.ByteSize() + 8
        if room < 0 and reply.documents:
            break
        reply.documents.append(message)
    sent = len(reply.documents)
    if sent == limit or sent < len(page.documents):
        reply.next_cursor = str(page.documents[sent - 1].arrival)
    return reply


def _upsert(field: str, item: pb.UpsertItem, limits: Limits, info: CollectionInfo) -> Upsert:
    if (size := len(item.id.encode())) > ID_BYTES:
        raise InputError(f"{field}.id: {size} bytes; at most {ID_BYTES}")
    id, given = parse_id(item.id, f"{field}.id"), item.document
    for name in ("title", "text", "metadata_json"):
        check_text(f"{field}.document.{name}", getattr(given, name), limits)
    metadata = _metadata(f"{field}.document.metadata_json", given.metadata_json)
    vector = None
    if item.HasField("vector"):
        size = info.index.vocabulary_size
        vector, unknown = sparse_vector(f"{field}.vector", item.vector, size, info)
        if unknown:
            raise InputError(f"{field}.vector: {unknown} of its terms are not in the vocabulary")
    if_version = item.if_version if item.HasField("if_version") else None
    return Upsert(Document(id, given.text, given.title, metadata), vector, if_version)


def _metadata(field: str, text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        value = json.loads(text, parse_constant=_reject)
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair cannot be kept
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:SHOWN]
        raise InputError(f"{field}: not JSON: {reason}; a JSON object is needed") from None
    if not isinstance(value, dict):
        raise InputError(f"{field}: {type(value).__name__} given; a JSON object is needed")
    return value


def _reject(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def _ids(ids: Sequence[str], limits: Limits) -> list[str]:
    if not 1 <= len(ids) <= limits.documents:
        raise InputError(f"ids: {len(ids)} ids; 1 to {limits.documents} allowed")
    return list(ids)


def _result(result: WriteResult, public: PublicError) -> pb.WriteResult:
    message = pb.WriteResult(
        id=result.id, status=f"WRITE_STATUS_{result.status.upper()}", version=result.version
    )
    if result.cut:
        message.cut.CopyFrom(replies.cut_reply(result.cut))
    if result.error is not None:
        message.error.CopyFrom(replies.error_reply(public(result.error)))
    return message


def _stored(stored: StoredDocument) -> pb.StoredDocument:
    message = pb.StoredDocument(id=stored.document.id, version=stored.version)
    replies.fill_document(message.document, stored.document)
    if len(stored.terms):
        message.vector.CopyFrom(SparseVector(indices=stored.terms, values=stored.weights))
    return message
