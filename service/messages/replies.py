"""Turn results into messages."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from ... import __version__
from ...core.document import Document
from ...core.errors import CspladeError, InputError, OverloadedError
from ...core.results import Answer, Cut, Encoding, Explanation, Hit, Hits, Timings, Verification
from ...engine.backend import CollectionInfo
from ...v1 import retrieval_pb2 as pb
from ..settings import Settings

DISTRIBUTIONS = (
    "grpcio", "protobuf", "numpy", "numba", "torch", "triton", "transformers", "tokenizers",
)  # fmt: skip

M = TypeVar("M", bound=Message)


def sendable(message: M, settings: Settings, advice: str) -> M:
    """Return a message unless it is larger than the service may send.

    Raises:
        InputError: it is, with the advice what to do.
    """
    size, limit = message.ByteSize(), settings.server.send_bytes
    if size > limit:
        raise InputError(f"answer: {size} bytes; server.send_bytes allows {limit}; {advice}")
    return message


def search_reply(answer: Answer, *, columns: bool, total: int) -> pb.SearchResponse:
    """Return the reply to Search, with hits or their columns; ``total`` in nanoseconds."""
    return pb.SearchResponse(
        hits=() if columns else map(_hit, answer.hits),
        columns=_columns(answer.hits) if columns else None,
        matched_documents=answer.matched,
        postings_read=answer.postings,
        query_terms=answer.query_terms,
        cut=cut_reply(answer.cut),
        timings=_timings(answer.timings, total),
        generation=answer.generation,
        model_fingerprint=answer.model_fingerprint,
        score_scale=answer.score_scale,
        partial=bool(answer.missing_shards),
        missing_shards=answer.missing_shards,
    )


def explain_reply(
    answer: Answer, explanations: Sequence[Explanation], *, total: int
) -> pb.ExplainResponse:
    """Return the reply to Explain; ``total`` in nanoseconds."""
    return pb.ExplainResponse(
        explanations=[
            pb.Explanation(id=one.id, hit=None if one.hit is None else _hit(one.hit), rank=one.rank)
            for one in explanations
        ],
        matched_documents=answer.matched,
        query_terms=answer.query_terms,
        cut=cut_reply(answer.cut),
        timings=_timings(answer.timings, total),
        generation=answer.generation,
        score_scale=answer.score_scale,
    )


def encode_reply(
    encodings: Sequence[Encoding], info: CollectionInfo, *, decode: bool, total: int
) -> pb.EncodeResponse:
    """Return the reply to Encode; ``total`` in nanoseconds."""
    encoder = info.require_encoder()
    # All texts of a batch report its durations; different durations are of different batches.
    durations = {item for one in encodings for item in one.timings.items() if item[0] != "queue"}
    timings: dict[str, int] = {"queue": max(one.timings.get("queue", 0) for one in encodings)}
    for stage, nanoseconds in durations:
        timings[stage] = timings.get(stage, 0) + nanoseconds
    return pb.EncodeResponse(
        encodings=[
            pb.Encoding(
                vector=pb.SparseVector(
                    indices=one.terms,
                    values=one.weights,
                    tokens=[encoder.tokens[term] for term in one.terms] if decode else (),
                ),
                tokens=one.tokens_read,
                cut=cut_reply(one.cut),
                text_tokens=[encoder.tokens[term] for term in one.text_tokens],
                sources=one.sources,
            )
            for one in encodings
        ],
        timings=_timings(timings, total),
        model_fingerprint=encoder.fingerprint,
    )


def verify_reply(verification: Verification, *, total: int) -> pb.VerifyResponse:
    """Return the reply to Verify; ``total`` in nanoseconds."""
    return pb.VerifyResponse(
        identical=verification.identical,
        compared=verification.compared,
        differences=[
            pb.Difference(
                rank=one.rank,
                reference_id=one.reference_id,
                reference_score=one.reference_score,
                id=one.id,
                score=one.score,
            )
            for one in verification.differences
        ],
        matched_documents=verification.matched,
        reference_matched_documents=verification.reference_matched,
        reference_nanoseconds=verification.reference_nanoseconds,
        timings=_timings(verification.timings, total),
        generation=verification.generation,
    )


def info_reply(info: CollectionInfo, settings: Settings) -> pb.InfoResponse:
    """Return the reply to Info."""
    index, encoder = info.index, info.encoder
    limits, batching = settings.limits, settings.batching
    model = None
    if encoder is not None:
        model = pb.ModelInfo(
            name=encoder.name,
            fingerprint=encoder.fingerprint,
            vocabulary_size=encoder.vocabulary_size,
            manifest_json=json.dumps(encoder.manifest, ensure_ascii=False),
            query_encoder=encoder.query_encoder,
        )
    return pb.InfoResponse(
        version=__version__,
        versions=_versions(),
        model=model,
        index=pb.IndexInfo(
            format_version=index.format_version,
            model_fingerprint=info.model_fingerprint,
            vocabulary_size=index.vocabulary_size,
            document_scale=index.step,
            max_impact=index.max_impact,
            generation=index.generation,
            documents=index.documents,
            postings=index.postings,
            bytes=index.bytes,
            shards=[
                pb.ShardInfo(documents=shard.documents, postings=shard.postings, bytes=shard.bytes)
                for shard in index.shards
            ],
            string_terms=index.vocabulary is not None,
            query_modifier=index.query_modifier,
            fields=index.fields,
            writable=info.writable,
        ),
        limits=pb.Limits(
            k=limits.k,
            explain_k=limits.explain_k,
            query_terms=limits.query_terms,
            text_bytes=limits.text_bytes,
            encode_texts=limits.encode_texts,
            stream_in_flight=limits.stream_in_flight,
            queue=batching.queue,
            batch_tokens=batching.tokens,
            batch_queries=batching.queries,
            timeout_seconds=limits.timeout_seconds,
            receive_bytes=settings.server.receive_bytes,
            send_bytes=settings.server.send_bytes,
            batch_searches=limits.batch_searches,
            documents=limits.documents,
        ),
    )


def error_reply(error: CspladeError) -> pb.Error:
    """Return the error of a part of a request: a query or a document."""
    code = grpc.StatusCode[error.code]
    message = " ".join(str(error).split()) or code.value[1]
    reply = pb.Error(code=code.value[0], message=message)
    if isinstance(error, OverloadedError):
        reply.retry_after_ms = max(1, round(error.retry_after * 1000))
    return reply


def _columns(hits: Hits) -> pb.HitColumns:
    return pb.HitColumns(
        ids=hits.ids,
        integer_scores=hits.integer_scores,
        shards=hits.shards,
        versions=hits.versions,
    )


def _hit(hit: Hit) -> pb.Hit:
    message = pb.Hit(
        id=hit.id,
        score=hit.score,
        integer_score=hit.integer_score,
        shard=hit.shard,
        version=hit.version,
    )
    if hit.document is not None:
        fill_document(message.document, hit.document)
    if hit.vector is not None:
        message.vector.indices.extend(hit.vector)
        message.vector.values.extend(hit.vector.values())
    for one in hit.contributions:
        message.contributions.add(
            term=one.term,
            token=one.token,
            query_impact=one.query_impact,
            document_impact=one.document_impact,
            product=one.product,
        )
    return message


def fill_document(message: pb.Document, document: Document) -> None:
    """Set the fields of a document's message."""
    message.title, message.text = document.title, document.text
    message.metadata_json = json.dumps(document.metadata, ensure_ascii=False)


def cut_reply(cut: Cut) -> pb.Cut:
    """Return what was cut as a message."""
    return pb.Cut(tokens=cut.tokens, terms=cut.terms, impacts=cut.impacts)


def _timings(timings: Timings, total: int) -> pb.Timings:
    return pb.Timings(**timings, total=total)


def _versions() -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # for example triton on a machine without a GPU
            continue
    return found
