"""What the ingress and the replicas send each other.

Results travel as columns: a ranking of 1,000 hits pickles and unpickles about 90 times as fast so
as a tuple of Hit objects. Errors travel as values: Ray would log a raised one with its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.document import Document
from ...core.errors import UnavailableError
from ...core.filters import Filter
from ...core.results import Answer, Contribution, Hit, Timings


class Detail(NamedTuple):
    """Document, contributions and vector of a hit, as far as they were requested."""

    document: Document | None = None
    contributions: tuple[Contribution, ...] = ()
    vector: Mapping[int, float] | None = None

    @classmethod
    def of(cls, hit: Hit) -> Detail:
        """Return the details of a hit."""
        return cls(hit.document, hit.contributions, hit.vector)


class Call(NamedTuple):
    """What goes with every call: the wanted version, the request id, seconds left."""

    version: str
    request_id: str
    remaining: float


class ShardQuery(NamedTuple):
    """A query to one shard; ``explain`` and ``with_...`` ask for details with the ranking."""

    terms: NDArray[np.int32]
    weights: NDArray[np.float32]
    k: int
    filter: Filter | None = None
    explain: bool = False
    with_document: bool = False
    with_vector: bool = False


class ShardRanking(NamedTuple):
    """Hits of one query in one shard, best first.

    Attributes:
        ids: Of the documents.
        versions: int64 [n], generation of the last write of each document.
        ordinals: int64 [n].
        scores: int32 [n].
        matched, postings, clipped: Counts of the query in this shard.
        score_scale: Weight of one step of an integer score.
        timings: Nanoseconds by stage.
        details: One of each hit; None if they were not requested with the ranking.
    """

    ids: list[str]
    versions: NDArray[np.int64]
    ordinals: NDArray[np.int64]
    scores: NDArray[np.int32]
    matched: int
    postings: int
    clipped: int
    score_scale: float
    timings: Timings
    details: list[Detail] | None

    @classmethod
    def of(cls, answer: Answer, *, detailed: bool = False) -> ShardRanking:
        """Return the columns of an answer."""
        hits = answer.hits
        return cls(
            list(hits.ids),
            np.array(hits.versions, np.int64),
            np.array(hits.ordinals, np.int64),
            np.array(hits.integer_scores, np.int32),
            answer.matched,
            answer.postings,
            answer.cut.impacts,
            answer.score_scale,
            answer.timings,
            list(map(Detail.of, answer.hits)) if detailed else None,
        )


class MovedError(UnavailableError):
    """A replica does not hold the wanted version; ``versions`` are those it holds, newest first."""

    def __init__(self, message: str, versions: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.versions = tuple(versions)
