"""Results turned into messages."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from ... import __version__
from ...engine.collection import Answer, Collection, Hit
from ...engine.local import Done
from ...v1 import retrieval_pb2 as pb
from ..settings import Settings

DISTRIBUTIONS = (
    "grpcio",
    "protobuf",
    "numpy",
    "numba",
    "torch",
    "triton",
    "transformers",
    "tokenizers",
)


def search_reply(
    answer: Answer, engine: Collection, *, with_document: bool, total: int
) -> pb.SearchResponse:
    """The reply to Search; ``total`` in nanoseconds."""
    return pb.SearchResponse(
        hits=[_hit(hit, with_document) for hit in answer.hits],
        matched_documents=answer.matched,
        postings_read=answer.postings,
        query_terms=answer.query_terms,
        cut=pb.Cut(
            tokens=answer.dropped_tokens, terms=answer.dropped_terms, impacts=answer.clipped
        ),
        timings=pb.Timings(**answer.timings, total=total),
        generation=engine.index.manifest.generation,
        model_fingerprint=engine.model_fingerprint,
        score_scale=engine.score_scale,
        partial=bool(answer.missing_shards),
        missing_shards=answer.missing_shards,
    )


def encode_reply(
    results: Sequence[Done], engine: Collection, *, decode: bool, total: int
) -> pb.EncodeResponse:
    """The reply to Encode; ``total`` in nanoseconds."""
    timings = {"total": total}
    # All texts of a batch report its times; another batch took other nanoseconds.
    for stage, nanoseconds in {time for done in results for time in done.timings.items()}:
        timings[stage] = timings.get(stage, 0) + nanoseconds
    timings["queue"] = max(done.timings["queue"] for done in results)
    return pb.EncodeResponse(
        encodings=[
            pb.Encoding(
                vector=pb.SparseVector(
                    indices=done.vector[0].tolist(),
                    values=done.vector[1].tolist(),
                    tokens=map(engine.need_encoder().token, done.vector[0].tolist())
                    if decode
                    else (),
                ),
                tokens=done.tokens,
                cut=pb.Cut(tokens=done.dropped_tokens, terms=done.dropped_terms),
            )
            for done in results
        ],
        timings=pb.Timings(**timings),
        model_fingerprint=engine.need_encoder().fingerprint,
    )


def verify_reply(
    answer: Answer, reference: Answer, engine: Collection, *, nanoseconds: int, total: int
) -> pb.VerifyResponse:
    """The reply to Verify; ``nanoseconds`` of the reference, and in ``total``."""
    compared = max(len(answer.hits), len(reference.hits))
    found, expected = _padded(answer.hits, compared), _padded(reference.hits, compared)
    differences = [
        pb.Difference(
            rank=rank, reference_id=right[0], reference_score=right[1], id=left[0], score=left[1]
        )
        for rank, (left, right) in enumerate(zip(found, expected, strict=True), 1)
        if left != right
    ]
    return pb.VerifyResponse(
        identical=not differences and answer.matched == reference.matched,
        compared=compared,
        differences=differences,
        matched_documents=answer.matched,
        reference_matched_documents=reference.matched,
        reference_nanoseconds=nanoseconds,
        timings=pb.Timings(**answer.timings, total=total),
        generation=engine.index.manifest.generation,
    )


def info_reply(engine: Collection, settings: Settings) -> pb.InfoResponse:
    """The reply to Info."""
    manifest, encoder = engine.index.manifest, engine.encoder
    limits, batching = settings.limits, settings.batching
    return pb.InfoResponse(
        version=__version__,
        versions=_versions(),
        model=None
        if encoder is None
        else pb.ModelInfo(
            name=encoder.name,
            fingerprint=encoder.fingerprint,
            vocabulary_size=encoder.vocabulary_size,
            # The golden vectors are long, and no rule of encoding.
            manifest_json=json.dumps(encoder.manifest.to_dict(golden=False), ensure_ascii=False),
        ),
        index=pb.IndexInfo(
            format_version=manifest.format_version,
            model_fingerprint=engine.model_fingerprint,
            vocabulary_size=manifest.vocabulary_size,
            document_scale=manifest.document_scale,
            query_scale=manifest.query_scale,
            generation=manifest.generation,
            documents=manifest.documents,
            postings=manifest.postings,
            bytes=manifest.bytes,
            shards=[
                pb.ShardInfo(documents=shard.documents, postings=shard.postings, bytes=shard.bytes)
                for shard in manifest.shards
            ],
            string_terms=manifest.vocabulary is not None,
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
        ),
    )


def _hit(hit: Hit, with_document: bool) -> pb.Hit:
    message = pb.Hit(id=hit.id, score=hit.score, integer_score=hit.score_int, shard=hit.shard)
    if with_document and hit.document is not None:
        message.document.title = hit.document.title
        message.document.text = hit.document.text
        message.document.metadata_json = json.dumps(hit.document.metadata, ensure_ascii=False)
    for one in hit.contributions or ():
        message.contributions.add(
            term=one.term,
            token=one.token,
            query_impact=one.query_impact,
            document_impact=one.document_impact,
            product=one.product,
        )
    return message


def _padded(hits: Iterable[Hit], length: int) -> list[tuple[str, int]]:
    ranking = [(hit.id, hit.score_int) for hit in hits]
    return ranking + [("", 0)] * (length - len(ranking))


def _versions() -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # triton where there is no GPU, for one
            continue
    return found
