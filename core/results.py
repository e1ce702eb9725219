"""The result model: what the engine, the Ray backend and the clients return.

Plain values. This module imports no numpy, because the clients use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

from .document import Document
from .errors import CspladeError

Timings = Mapping[str, int]
"""Stage name (see :mod:`.stages`) -> nanoseconds."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one shared term adds to a hit's score: ``product = query_impact * document_impact``.

    ``score`` is the product as a float, in the unit of ``Hit.score``.
    """

    term: int
    token: str
    query_impact: int
    document_impact: int
    product: int
    score: float

    def __str__(self) -> str:
        return f"{self.token or self.term} {self.score:.3g}"


@dataclass(frozen=True, slots=True)
class Hit:
    """One document of an answer.

    Attributes:
        id: The id that the document was indexed with.
        score: ``integer_score`` times the answer's ``score_scale``.
        integer_score: The exact score.
        shard: Number of the shard that holds the document.
        ordinal: Number of the document in its shard; None in a client, the service does not send
            it.
        document: Title, text and metadata, if requested.
        contributions: If explained: the shared terms, by product descending, then term ascending.
            Their products sum exactly to ``integer_score``.
        vector: The stored vector, if requested: term -> weight, by ascending term.
        version: Generation of the document's last write.
    """

    id: str
    score: float
    integer_score: int
    shard: int
    ordinal: int | None = field(default=None, repr=False)
    document: Document | None = field(default=None, repr=False)
    contributions: tuple[Contribution, ...] = field(default=(), repr=False)
    vector: Mapping[int, float] | None = field(default=None, repr=False)
    version: int = field(default=0, repr=False)

    def __str__(self) -> str:
        why = ", ".join(map(str, self.contributions[:8]))
        if len(self.contributions) > 8:
            why += ", ..."
        return f"{self.score:8.3f}  {self.id}" + (f"  ({why})" if why else "")


@dataclass(frozen=True, eq=False, repr=False)
class Hits(Sequence[Hit]):
    """The hits of an answer, best first, as columns: each Hit is made when it is asked for.

    Equal to any sequence of equal hits.

    Attributes:
        ids, integer_scores, shards: As of :class:`Hit`.
        score_scale: ``score = integer_score * score_scale``.
        ordinals, documents, contributions, vectors, versions: As of :class:`Hit`; empty where no
            hit has one.
    """

    ids: Sequence[str] = ()
    integer_scores: Sequence[int] = ()
    shards: Sequence[int] = ()
    score_scale: float = 1.0
    ordinals: Sequence[int] = ()
    documents: Sequence[Document | None] = ()
    contributions: Sequence[tuple[Contribution, ...]] = ()
    vectors: Sequence[Mapping[int, float] | None] = ()
    versions: Sequence[int] = ()

    @property
    def scores(self) -> list[float]:
        """The score of each hit."""
        return [score * self.score_scale for score in self.integer_scores]

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> Hit: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Hit, ...]: ...

    def __getitem__(self, place: int | slice) -> Hit | tuple[Hit, ...]:
        if isinstance(place, slice):
            return tuple(self[i] for i in range(*place.indices(len(self))))
        score = self.integer_scores[place]
        return Hit(
            self.ids[place],
            score * self.score_scale,
            score,
            self.shards[place],
            self.ordinals[place] if self.ordinals else None,
            self.documents[place] if self.documents else None,
            self.contributions[place] if self.contributions else (),
            self.vectors[place] if self.vectors else None,
            self.versions[place] if self.versions else 0,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclass(frozen=True, slots=True)
class Cut:
    """Count what caps removed from a text or query. False if nothing was removed.

    Attributes:
        tokens: Tokens beyond the token cap.
        terms: Terms beyond the term cap, or unknown to the index.
        impacts: Impacts above the maximum, reduced to it.
    """

    tokens: int = 0
    terms: int = 0
    impacts: int = 0

    def __bool__(self) -> bool:
        return bool(self.tokens or self.terms or self.impacts)


@dataclass(frozen=True)
class Answer:
    """The ranked hits of one query, best first. Iterates over its hits.

    Attributes:
        hits: Score descending, then order of arrival.
        matched: Documents inside the filter that share a term with the query.
        postings: Postings read.
        query_terms: Terms of the query as scored.
        cut: What was removed from the query.
        timings: Nanoseconds by stage. Queries answered in one batch share all stages but ``queue``
            and ``fetch``.
        generation: State of the index that answered.
        model_fingerprint: Fingerprint of the encoder that the index was built with; "" for ready
            vectors.
        missing_shards: Shards that failed, ascending; only if the query allowed a partial answer.
    """

    hits: Hits
    matched: int
    postings: int
    query_terms: int
    cut: Cut = Cut()
    timings: Timings = field(default_factory=dict, repr=False)
    generation: int = 0
    model_fingerprint: str = field(default="", repr=False)
    missing_shards: tuple[int, ...] = ()

    @property
    def score_scale(self) -> float:
        """The scale of the hits: ``score = integer_score * score_scale``."""
        return self.hits.score_scale

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Score and place of one document for a query.

    Attributes:
        id: As requested.
        hit: With its contributions; None if no document has the id. The scores are 0 if it shares
            no term with the query.
        rank: Place in the ranking, from 1; None if the document is not in it, or too far behind.
    """

    id: str
    hit: Hit | None
    rank: int | None

    @classmethod
    def place(
        cls, ids: Sequence[str], hits: Mapping[str, Hit], answer: Answer
    ) -> tuple[Explanation, ...]:
        """Return the explanation of each id, given the documents found and the ranking."""
        ranks = {hit.id: rank for rank, hit in enumerate(answer, 1)}
        return tuple(cls(id, hits.get(id), ranks.get(id)) for id in ids)


@dataclass(frozen=True, eq=False)
class Encoding:
    """The sparse vector of one text.

    Attributes:
        terms: Term ids, ascending. An int32 array inside the service.
        weights: Weight of each term. A float32 array inside the service.
        tokens: The terms as token strings, if requested.
        tokens_read: Tokens of the text that were encoded.
        text_tokens: Those tokens as term ids, if attribution was requested.
        sources: Position in ``text_tokens`` of the token that gave each term its weight, if
            attribution was requested.
        cut: What was removed from the text.
        timings: Nanoseconds by stage.
    """

    terms: Sequence[int]
    weights: Sequence[float]
    tokens: tuple[str, ...] = ()
    tokens_read: int = 0
    text_tokens: Sequence[int] = ()
    sources: Sequence[int] = ()
    cut: Cut = Cut()
    timings: Timings = field(default_factory=dict)

    @property
    def vector(self) -> dict[int, float]:
        """The vector as term id -> weight, ascending."""
        return dict(zip(self.terms, self.weights, strict=True))

    def __repr__(self) -> str:
        names: Sequence[str | int] = self.tokens or self.terms
        largest = sorted(
            zip(self.weights, names, strict=True), reverse=True, key=lambda one: one[0]
        )
        shown = ", ".join(f"{name} {weight:.3g}" for weight, name in largest[:8])
        return f"Encoding({len(names)} terms: {shown}{', ...' if len(largest) > 8 else ''})"


@dataclass(frozen=True, slots=True)
class Difference:
    """A rank, from 1, where search and reference differ; "" where a ranking is shorter."""

    rank: int
    reference_id: str
    reference_score: int
    id: str
    score: int


@dataclass(frozen=True)
class Verification:
    """The comparison of a search with the exhaustive reference. True if they are identical.

    Attributes:
        identical: Same ids, same integer scores, same number of matches.
        compared: Ranks compared.
        differences: Ranks that differ.
        matched: Matches that the search counted.
        reference_matched: Matches that the reference counted.
        reference_nanoseconds: Time that the reference took.
        generation: State of the index that was searched.
        timings: Nanoseconds of the search by stage.
    """

    identical: bool
    compared: int
    differences: tuple[Difference, ...]
    matched: int
    reference_matched: int
    reference_nanoseconds: int
    generation: int
    timings: Timings = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return self.identical

    @classmethod
    def compare(cls, answer: Answer, reference: Answer, nanoseconds: int) -> Verification:
        """Compare an answer with the reference's, which took so many nanoseconds."""
        compared = max(len(answer), len(reference))
        found, expected = (
            [(hit.id, hit.integer_score) for hit in one] + [("", 0)] * (compared - len(one))
            for one in (answer, reference)
        )
        differences = tuple(
            Difference(rank, *right, *left)
            for rank, (left, right) in enumerate(zip(found, expected, strict=True), 1)
            if left != right
        )
        return cls(
            identical=not differences and answer.matched == reference.matched,
            compared=compared,
            differences=differences,
            matched=answer.matched,
            reference_matched=reference.matched,
            reference_nanoseconds=nanoseconds,
            generation=answer.generation,
            timings=answer.timings,
        )


WriteStatus = Literal["created", "updated", "unchanged", "deleted", "not_found", "failed"]
"""What a write did to one document."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of one document. False if it failed.

    Attributes:
        id: As requested.
        status: What happened; "failed" has an error and wrote nothing.
        version: Generation of the document's last write, of its deletion if "deleted"; 0 if it is
            not stored.
        error: Why it failed.
        cut: What caps removed from the document.
    """

    id: str
    status: WriteStatus
    version: int = 0
    error: CspladeError | None = None
    cut: Cut = Cut()

    def __bool__(self) -> bool:
        return self.status != "failed"


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it is stored.

    Attributes:
        document: Id, title, text and metadata.
        version: Generation of its last write.
        arrival: Its place in the order of writes, from 0; None in a client, the service does not
            send it.
        terms, weights: The stored vector, if requested: terms ascending. Arrays inside the service.
    """

    document: Document
    version: int
    arrival: int | None = field(default=None, repr=False)
    terms: Sequence[int] = field(default=(), repr=False)
    weights: Sequence[float] = field(default=(), repr=False)

    @property
    def vector(self) -> dict[int, float]:
        """The vector as term id -> weight, ascending; empty unless requested."""
        return dict(zip(self.terms, self.weights, strict=True))
