"""Rare documents: the few of a segment that a filter holds for, as a block of their own.

A masked search reads all postings of the query's terms, whatever the mask lets through. A block of
the documents inside has their postings alone, so its search takes as much less time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ...core.ranking_key import unpack
from ...kernels.score.cpu import Workspace, score_segments
from ...kernels.score.types import Block
from ..storage.segment import Segment

# Share of a segment's documents up to which those inside are rare. A posting takes 3 bytes: at 119
# a document, and one document in 32, eleven times the byte per document that a mask takes.
RARE_SHARE = 1 / 32
# Documents of a segment from which that pays: those of two full blocks. What a search of rare
# documents takes in Python is as long as scoring one block.
RARE_FROM = 32_768


@dataclass(frozen=True, eq=False)
class RareDocuments:
    """Some documents of a segment.

    Attributes:
        places: int64 [documents], their positions in the segment, ascending.
        segment: Their postings in one block; None without documents.
    """

    places: NDArray[np.int64]
    segment: Segment | None

    def __len__(self) -> int:
        return len(self.places)

    @classmethod
    def of(cls, segment: Segment, inside: NDArray[np.bool_]) -> Self:
        """Copy the postings of the documents inside.

        Args:
            segment: The whole one.
            inside: bool [documents], at most as many True as a block may hold documents.
        """
        ranks = np.cumsum(inside) - 1
        pieces, first = [np.empty(0, np.int64)], 0
        for number in range(len(segment)):
            block = segment.block(number)
            here = slice(first, first + block.documents)
            first += block.documents
            if not inside[here].any():
                continue
            start = block.indptr[0]
            owners = block.locals[start : block.indptr[-1]]
            chosen = np.flatnonzero(inside[here][owners])
            rows = np.searchsorted(block.indptr, chosen + start, side="right") - 1
            keys = block.terms[rows].astype(np.int64) << 24
            keys |= ranks[here][owners[chosen]] << 8
            keys |= block.impacts[start + chosen]
            pieces.append(keys)
        keys = np.concatenate(pieces)
        keys.sort()
        terms = (keys >> 24).astype(np.int32)
        starts = np.flatnonzero(np.diff(terms, prepend=np.int32(-1)))
        block = Block(
            terms[starts],
            np.append(starts, len(keys)).astype(np.int64),
            (keys >> 8).astype(np.uint16),
            keys.astype(np.uint8),
            int(np.count_nonzero(inside)),
        )
        return cls(np.flatnonzero(inside), Segment.from_blocks([block]))

    @property
    def nbytes(self) -> int:
        """Bytes of the places, the postings and the columns that the scorer makes of them."""
        if (segment := self.segment) is None:
            return 0
        arrays = (
            self.places, segment.indptr, segment.terms, segment.locals, segment.impacts,
            segment.columns.places, segment.columns.impacts,
        )  # fmt: skip
        return sum(one.nbytes for one in arrays)

    def search(
        self,
        terms: NDArray[np.int32],
        impacts: NDArray[np.int32],
        k: int,
        live: NDArray[np.uint8],
        workspace: Workspace,
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], int, int]:
        """Score one query; see :func:`csplade.kernels.score.cpu.score_segments`.

        Args:
            terms, impacts, k, workspace: As there.
            live: uint8 [documents of the whole segment], 0 where deleted; empty if nothing is.

        Returns:
            Of at least the k best: the scores, int32, and the positions in the segment, int64; then
            documents that matched and postings read.
        """
        if self.segment is None:
            return np.empty(0, np.int32), self.places, 0, 0
        mask = np.ascontiguousarray(live[self.places]) if len(live) else live
        parts = [(self.segment, 0, 0, 1, mask)]
        keys, matched, postings = score_segments(
            parts, len(self.places), 0, 1, terms, impacts, k, workspace
        )
        _, ranks, scores = unpack(keys, 1)
        return scores, self.places[ranks], matched, postings


NOTHING = RareDocuments(np.empty(0, np.int64), None)
