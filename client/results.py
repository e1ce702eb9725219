"""What clients give back: small values made from the messages of the service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..v1 import retrieval_pb2 as pb


@dataclass(frozen=True)
class Contribution:
    """What one shared term adds to a hit's score: ``product = query_impact * document_impact``."""

    term: int
    token: str
    query_impact: int
    document_impact: int
    product: int
    score: float

    def __str__(self) -> str:
        return f"{self.token or self.term} {self.score:.3g}"


@dataclass(frozen=True)
class Document:
    """A document as it was indexed."""

    title: str
    text: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Hit:
    """One document of an answer; ``contributions`` (when explained) sum exactly to
    ``integer_score``.
    """

    id: str
    score: float
    integer_score: int
    shard: int
    document: Document | None = field(default=None, repr=False)
    contributions: tuple[Contribution, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        why = ", ".join(map(str, self.contributions[:8])) + (
            ", ..." if len(self.contributions) > 8 else ""
        )
        return f"{self.score:8.3f}  {self.id}" + (f"  ({why})" if why else "")


@dataclass(frozen=True)
class Cut:
    """How much a cap took away: tokens of the text, terms of the vector, impacts. False when
    nothing.
    """

    tokens: int = 0
    terms: int = 0
    impacts: int = 0

    def __bool__(self) -> bool:
        return bool(self.tokens or self.terms or self.impacts)


@dataclass(frozen=True)
class Answer:
    """The ranked hits of one query, best first; iterates over its hits.

    Attributes:
        hits: best first.
        matched: documents that share a term with the query.
        postings: postings read to score them.
        query_terms: terms of the query as scored.
        cut: what was cut from the query.
        timings: stage -> nanoseconds.
        generation: state of the index that answered.
        model_fingerprint: of the encoder the index was built with.
        score_scale: ``score = integer_score * score_scale``.
        missing_shards: shards that failed and are not in the answer; only with ``allow_partial``.
    """

    hits: tuple[Hit, ...]
    matched: int
    postings: int
    query_terms: int
    cut: Cut
    timings: dict[str, int] = field(repr=False)
    generation: int
    model_fingerprint: str = field(repr=False)
    score_scale: float = field(repr=False)
    missing_shards: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True)
class Encoding:
    """The vector of one text, term id -> weight, ascending; ``tokens`` the terms in letters, if
    asked for.
    """

    vector: dict[int, float]
    tokens: tuple[str, ...]
    tokens_read: int
    cut: Cut

    def __repr__(self) -> str:
        names: tuple[str | int, ...] = self.tokens or tuple(self.vector)
        heaviest = sorted(
            zip(self.vector.values(), names, strict=True), reverse=True, key=lambda one: one[0]
        )
        shown = ", ".join(f"{name} {weight:.3g}" for weight, name in heaviest[:8])
        return f"Encoding({len(self.vector)} terms: {shown}{', ...' if len(heaviest) > 8 else ''})"


@dataclass(frozen=True)
class Info:
    """What is being served; ``model`` is None when no encoder is loaded. Keys as in the proto's
    messages.
    """

    version: str
    versions: dict[str, str]
    model: dict[str, Any] | None
    index: dict[str, Any]
    limits: dict[str, Any]

    def __repr__(self) -> str:
        model = "no model" if self.model is None else f"model {self.model['name']}"
        return f"Info(csplade {self.version}, {model}, {self.index['documents']} documents)"


@dataclass(frozen=True)
class Difference:
    """One rank (from 1) where search and reference disagree; an id is "" where a ranking is
    shorter.
    """

    rank: int
    reference_id: str
    reference_score: int
    id: str
    score: int


@dataclass(frozen=True)
class Verification:
    """How a search compares with the exhaustive reference. True when identical."""

    identical: bool
    compared: int
    differences: tuple[Difference, ...]
    matched: int
    reference_matched: int
    reference_nanoseconds: int
    generation: int

    def __bool__(self) -> bool:
        return self.identical


def answer(message: pb.SearchResponse) -> Answer:
    """From the answer of Search."""
    return Answer(
        hits=tuple(_hit(hit, message.score_scale) for hit in message.hits),
        matched=message.matched_documents,
        postings=message.postings_read,
        query_terms=message.query_terms,
        cut=_cut(message.cut),
        timings=_timings(message.timings),
        generation=message.generation,
        model_fingerprint=message.model_fingerprint,
        score_scale=message.score_scale,
        missing_shards=tuple(message.missing_shards),
    )


def encodings(message: pb.EncodeResponse) -> list[Encoding]:
    """From the answer of Encode."""
    return [
        Encoding(
            vector=dict(zip(one.vector.indices, one.vector.values, strict=True)),
            tokens=tuple(one.vector.tokens),
            tokens_read=one.tokens,
            cut=_cut(one.cut),
        )
        for one in message.encodings
    ]


def info(message: pb.InfoResponse) -> Info:
    """From the answer of Info."""
    return Info(
        version=message.version,
        versions=dict(message.versions),
        model=_plain(message.model) if message.HasField("model") else None,
        index=_plain(message.index),
        limits=_plain(message.limits),
    )


def verification(message: pb.VerifyResponse) -> Verification:
    """From the answer of Verify."""
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
    )


def _hit(message: pb.Hit, scale: float) -> Hit:
    document = None
    if message.HasField("document"):
        metadata = json.loads(message.document.metadata_json or "{}")
        document = Document(message.document.title, message.document.text, metadata)
    contributions = tuple(
        Contribution(
            one.term,
            one.token,
            one.query_impact,
            one.document_impact,
            one.product,
            one.product * scale,
        )
        for one in message.contributions
    )
    return Hit(
        message.id, message.score, message.integer_score, message.shard, document, contributions
    )


def _cut(message: pb.Cut) -> Cut:
    return Cut(message.tokens, message.terms, message.impacts)


def _timings(message: pb.Timings) -> dict[str, int]:
    return {name: getattr(message, name) for name in pb.Timings.DESCRIPTOR.fields_by_name}


def _plain(message: Any) -> dict[str, Any]:
    """A flat message as a dict with Python ints (JSON would make strings of the 64-bit ones)."""
    plain = {}
    for name, kind in message.DESCRIPTOR.fields_by_name.items():
        value = getattr(message, name)
        if kind.is_repeated:
            value = [_plain(one) if kind.message_type else one for one in value]
        if name.endswith("_json"):
            name, value = name.removesuffix("_json"), json.loads(value or "{}")
        plain[name] = value
    return plain
