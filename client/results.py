"""Turn messages of the service into the result model of :mod:`csplade.core.results`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import grpc

from ..core.document import Document
from ..core.results import (
    Answer,
    Contribution,
    Cut,
    Difference,
    Encoding,
    Explanation,
    Hit,
    Hits,
    StoredDocument,
    Verification,
    WriteResult,
    WriteStatus,
)
from ..v1 import documents_pb2 as document_pb
from ..v1 import retrieval_pb2 as pb
from .connection import ServiceError


@dataclass(frozen=True)
class Info:
    """Describe what is served, with the keys of the proto's messages; ``model`` may be None."""

    version: str
    versions: dict[str, str]
    model: dict[str, Any] | None
    index: dict[str, Any]
    limits: dict[str, Any]

    def __repr__(self) -> str:
        model = "no model" if self.model is None else f"model {self.model['name']}"
        return f"Info(csplade {self.version}, {model}, {self.index['documents']} documents)"


def answer(message: pb.SearchResponse) -> Answer:
    """Return the answer of a Search."""
    return Answer(
        hits=_hits(message),
        matched=message.matched_documents,
        postings=message.postings_read,
        query_terms=message.query_terms,
        cut=_cut(message.cut),
        timings=_timings(message.timings),
        generation=message.generation,
        model_fingerprint=message.model_fingerprint,
        missing_shards=tuple(message.missing_shards),
    )


def outcomes(message: pb.SearchBatchResponse) -> list[Answer | ServiceError]:
    """Return the answer, or the error, of each query of a SearchBatch."""
    return [
        _error(one.error, f"query {number} of the batch")
        if one.HasField("error")
        else answer(one.response)
        for number, one in enumerate(message.outcomes)
    ]


def explanations(message: pb.ExplainResponse) -> list[Explanation]:
    """Return the explanations of an Explain."""
    return [
        Explanation(
            one.id,
            _hit(one.hit, message.score_scale) if one.HasField("hit") else None,
            one.rank if one.HasField("rank") else None,
        )
        for one in message.explanations
    ]


def encodings(message: pb.EncodeResponse) -> list[Encoding]:
    """Return the encodings of an Encode."""
    return [
        Encoding(
            terms=tuple(one.vector.indices),
            weights=tuple(one.vector.values),
            tokens=tuple(one.vector.tokens),
            tokens_read=one.tokens,
            cut=_cut(one.cut),
            timings=_timings(message.timings),
        )
        for one in message.encodings
    ]


def info(message: pb.InfoResponse) -> Info:
    """Return what Info tells."""
    return Info(
        version=message.version,
        versions=dict(message.versions),
        model=_plain(message.model) if message.HasField("model") else None,
        index=_plain(message.index),
        limits=_plain(message.limits),
    )


def verification(message: pb.VerifyResponse) -> Verification:
    """Return the comparison of a Verify."""
    return Verification(
        identical=message.identical,
        compared=message.compared,
        differences=tuple(
            Difference(one.rank, one.reference_id, one.reference_score, one.id, one.score)
            for one in message.differences
        ),
        matched=message.matched_documents,
        reference_matched=message.reference_matched_documents,
        reference_nanoseconds=message.reference_nanoseconds,
        generation=message.generation,
        timings=_timings(message.timings),
    )


STATUSES: dict[int, WriteStatus] = {
    document_pb.WriteStatus.Value(f"WRITE_STATUS_{status.upper()}"): status
    for status in get_args(WriteStatus)
}


def written(message: document_pb.UpsertResponse | document_pb.DeleteResponse) -> list[WriteResult]:
    """Return the results of a write."""
    return [
        WriteResult(
            one.id,
            STATUSES[one.status],
            one.version,
            _error(one.error, f"document {one.id}") if one.HasField("error") else None,
            _cut(one.cut),
        )
        for one in message.results
    ]


def deleted(message: document_pb.DeleteResponse) -> int:
    """Return how many documents a Delete by filter deleted.

    Raises:
        ServiceError: of the first one that failed.
    """
    for result in written(message):
        if isinstance(result.error, ServiceError):
            raise result.error
    return int(message.deleted)


def streamed(message: document_pb.UpsertStreamResponse) -> list[WriteResult]:
    """Return the results of one request of a stream.

    Raises:
        ServiceError: the request failed as a whole.
    """
    if message.HasField("error"):
        raise _error(message.error, "a request of the stream")
    return written(message.response)


def stored(message: document_pb.StoredDocument) -> StoredDocument | None:
    """Return a document as it is stored; None if it is not."""
    if not message.HasField("document"):
        return None
    return StoredDocument(
        _document(message.id, message.document),
        message.version,
        terms=tuple(message.vector.indices),
        weights=tuple(message.vector.values),
    )


class InOrder:
    """Yield the answers of a stream in query order; hold at most the server's window."""

    def __init__(self) -> None:
        self._next = 0
        self._early: dict[int, pb.SearchStreamResponse] = {}

    def ready(self, response: pb.SearchStreamResponse) -> Iterator[Answer]:
        """Yield the answers that are next.

        Raises:
            ServiceError: the next query failed.
        """
        self._early[response.sequence] = response
        while (current := self._early.pop(self._next, None)) is not None:
            if current.HasField("error"):
                raise _error(current.error, f"query {self._next} of the stream")
            self._next += 1
            yield answer(current.response)

    def check_complete(self, sent: int) -> None:
        """Raise ServiceError unless every query of ``sent`` has its answer."""
        if self._next != sent:
            raise ServiceError(
                "UNAVAILABLE", f"the stream ended after {self._next} of {sent} answers"
            )


def _error(error: pb.Error, what: str) -> ServiceError:
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    after = error.retry_after_ms / 1000 if error.HasField("retry_after_ms") else None
    details = f"{what}: {error.message}"
    return ServiceError(names.get(error.code, str(error.code)), details, "", after)


def _hits(message: pb.SearchResponse) -> Hits:
    scale = message.score_scale
    if message.HasField("columns"):
        columns = message.columns
        return Hits(
            tuple(columns.ids),
            tuple(columns.integer_scores),
            tuple(columns.shards),
            scale,
            versions=tuple(columns.versions),
        )
    hits = [_hit(hit, scale) for hit in message.hits]
    return Hits(
        tuple(hit.id for hit in hits),
        tuple(hit.integer_score for hit in hits),
        tuple(hit.shard for hit in hits),
        scale,
        documents=tuple(hit.document for hit in hits),
        contributions=tuple(hit.contributions for hit in hits),
        vectors=tuple(hit.vector for hit in hits),
        versions=tuple(hit.version for hit in hits),
    )


def _hit(message: pb.Hit, scale: float) -> Hit:
    document = None
    if message.HasField("document"):
        document = _document(message.id, message.document)
    return Hit(
        id=message.id,
        score=message.integer_score * scale,
        integer_score=message.integer_score,
        shard=message.shard,
        document=document,
        contributions=tuple(
            Contribution(
                term=one.term,
                token=one.token,
                query_impact=one.query_impact,
                document_impact=one.document_impact,
                product=one.product,
                score=one.product * scale,
            )
            for one in message.contributions
        ),
        vector=_vector(message.vector) if message.HasField("vector") else None,
        version=message.version,
    )


def _vector(message: pb.SparseVector) -> dict[int, float]:
    return dict(zip(message.indices, message.values, strict=True))


def _document(id: str, message: pb.Document) -> Document:
    return Document(id, message.text, message.title, json.loads(message.metadata_json or "{}"))


def _cut(message: pb.Cut) -> Cut:
    return Cut(message.tokens, message.terms, message.impacts)


def _timings(message: pb.Timings) -> dict[str, int]:
    return {name: getattr(message, name) for name in pb.Timings.DESCRIPTOR.fields_by_name}


def _plain(message: Any) -> dict[str, Any]:
    """Return a flat message as a dict of Python values; JSON would make strings of 64-bit ones."""
    plain = {}
    for name, kind in message.DESCRIPTOR.fields_by_name.items():
        value = getattr(message, name)
        if kind.message_type and kind.message_type.GetOptions().map_entry:
            value = dict(value)
        elif kind.is_repeated:
            value = [_plain(one) if kind.message_type else one for one in value]
        if name.endswith("_json"):
            name, value = name.removesuffix("_json"), json.loads(value or "{}")
        plain[name] = value
    return plain
