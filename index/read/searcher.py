"""The contract of everything that ranks documents: queries and a mask in, hits out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...core.ranking_key import unpack
from ...core.vectors import ImpactBatch, offsets

if TYPE_CHECKING:
    from .rare import RareDocuments
    from .shard import OpenSegment


class Sized(Protocol):
    """An array or a tensor."""

    @property
    def nbytes(self) -> int:
        """Bytes of its content."""


S = TypeVar("S", bound=Sized)


class Selection(Protocol):
    """The documents that may be hits; the others are neither ranked nor counted as matches."""

    def check(self, documents: Mapping[int, int]) -> None:
        """Check that the selection fits shards with these numbers of documents.

        Raises:
            InputError: it does not.
        """

    def of(self, shard: int, segment: OpenSegment) -> NDArray[np.bool_]:
        """Return which documents of a segment are inside: bool [documents], contiguous."""

    def rare(self, segment: OpenSegment, inside: NDArray[np.bool_]) -> RareDocuments | None:
        """Return the documents inside as a block of their own, if they are few and it is ready."""

    def keep(self, owner: object, make: Callable[[], S]) -> S:
        """Return what ``make`` makes of this selection for an owner, perhaps made earlier."""


Wanted = Callable[[int], bool]
"""Tell whether anybody still waits for the result of a query, by its number in the batch. Once
False, it stays so."""


def always(query: int) -> bool:
    """Say that the result of every query is waited for."""
    return True


@dataclass(frozen=True)
class Mask:
    """A :class:`Selection` by arrays.

    Attributes:
        shards: bool [documents of the shard] for each shard that is searched, by its number.
    """

    shards: Mapping[int, NDArray[np.bool_]]

    def check(self, documents: Mapping[int, int]) -> None:
        """Check that the mask fits shards with these numbers of documents.

        Raises:
            InputError: another set of shards, another length or another type.
        """
        if self.shards.keys() != documents.keys():
            raise InputError(
                f"mask: has shards {sorted(self.shards)}; needed are {sorted(documents)}"
            )
        for shard, count in documents.items():
            one = self.shards[shard]
            if one.dtype != np.bool_ or one.shape != (count,):
                raise InputError(
                    f"mask: shard {shard} is {one.dtype} {list(one.shape)}; "
                    f"needed is bool [{count}]"
                )

    def of(self, shard: int, segment: OpenSegment) -> NDArray[np.bool_]:
        """Return which documents of a segment are inside: bool [documents]."""
        inside = self.shards[shard][segment.start : segment.start + len(segment)]
        return np.ascontiguousarray(inside)

    def rare(self, segment: OpenSegment, inside: NDArray[np.bool_]) -> None:
        """Return None: a mask is used once."""

    def keep(self, owner: object, make: Callable[[], S]) -> S:
        """Return what ``make`` makes."""
        return make()


@dataclass(frozen=True)
class SearchResult:
    """Ranked hits of n queries: score descending, then ordinal, then shard ascending.

    Attributes:
        indptr: int64 [n + 1], query i owns hits ``indptr[i]:indptr[i + 1]``.
        shards: int32 [h].
        ordinals: int64 [h].
        scores: int32 [h], all > 0; times the scales of query and index the float score.
        matched: int64 [n], live documents within the mask that share a term with the query.
        postings: int64 [n], postings read, those of documents outside the mask included. A
            searcher may pass over blocks without a document inside the mask.
        timings: nanoseconds of wall time under "score", "select" and "merge".
    """

    indptr: NDArray[np.int64]
    shards: NDArray[np.int32]
    ordinals: NDArray[np.int64]
    scores: NDArray[np.int32]
    matched: NDArray[np.int64]
    postings: NDArray[np.int64]
    timings: dict[str, int]

    @classmethod
    def from_keys(
        cls,
        ranked: Sequence[NDArray[np.int64]],
        shard_count: int,
        matched: NDArray[np.int64],
        postings: NDArray[np.int64],
        timings: dict[str, int],
    ) -> Self:
        """Build from each query's ranking keys (:mod:`csplade.core.ranking_key`), best first."""
        hits = unpack(np.concatenate([*ranked, np.empty(0, np.int64)]), shard_count)
        return cls(offsets([len(keys) for keys in ranked]), *hits, matched, postings, timings)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def row(self, i: int) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
        """Shards, ordinals and scores of query ``i`` (views)."""
        span = slice(self.indptr[i], self.indptr[i + 1])
        return self.shards[span], self.ordinals[span], self.scores[span]


class Searcher(Protocol):
    """Ranks the documents of open shards exactly; every implementation gives the same numbers."""

    def search(
        self, queries: ImpactBatch, k: int, mask: Selection | None = None, wanted: Wanted = always
    ) -> SearchResult:
        """Return the k best documents of each query.

        Args:
            queries: n checked vectors (``check_queries``).
            k: 1 to 10,000.
            mask: the documents that may be hits, checked; None for all live ones.
            wanted: asked between blocks of postings. Hits of queries that nobody waits for are
                incomplete.
        """
        ...
