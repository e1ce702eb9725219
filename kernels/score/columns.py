"""Dense columns of frequent terms for the CPU scorer: a byte per document instead of postings.

Adding a posting takes about two cycles, adding a document of a column a sixth of one, in vectors
of 16. Columns thus win from about one document in ten on; from one in five on they also repay
their memory, a byte per document beside three bytes per posting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .cpu import TILE, compiled
from .types import COLUMN_SHARE, HostPostings


@dataclass(frozen=True)
class Columns:
    """The columns of some blocks.

    Attributes:
        places: int32 [T], the column of each term row, -1 for rows without one.
        impacts: uint8 [columns, width], the impact of each document of the row's block, 0 where
            the document lacks the term; the width is a multiple of TILE.
    """

    places: NDArray[np.int32]
    impacts: NDArray[np.uint8]

    @classmethod
    def of(cls, postings: HostPostings) -> Columns:
        """Make the columns of every row that is frequent in its block.

        Blocks smaller than a tile have none: their columns would be longer than the block.
        """
        documents = np.asarray(postings.block_documents)
        lengths = np.diff(postings.indptr)
        of_row = np.repeat(documents, np.diff(postings.block_term_indptr))
        frequent = (lengths >= COLUMN_SHARE * of_row) & (of_row >= TILE)
        places = np.full(len(lengths), -1, dtype=np.int32)
        rows = np.flatnonzero(frequent)
        places[rows] = np.arange(len(rows))
        width = -(-int(documents.max(initial=0)) // TILE) * TILE if len(rows) else TILE
        impacts = np.zeros((len(rows), width), dtype=np.uint8)
        fill(rows, postings.indptr, postings.locals, postings.impacts, impacts)
        return cls(places, impacts)


@compiled("void(int64[::1], int64[::1], uint16[::1], uint8[::1], uint8[:, ::1])")
def fill(rows, indptr, locals_, impacts, columns):  # type: ignore[no-untyped-def]
    """Write the postings of some term rows into their columns."""
    for column in range(len(rows)):
        for p in range(indptr[rows[column]], indptr[rows[column] + 1]):
            columns[column, locals_[p]] = impacts[p]
