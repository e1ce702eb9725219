"""Lay the postings of segments out for a device, so that scoring neither searches nor straddles.

A term that occurs anywhere gets a row number, the most frequent term 0. A table [rows, blocks]
holds where the postings of a term begin in a block and how many they are: finding them takes one
read instead of a binary search with 15 dependent misses. Postings begin at multiples of 16, so that
a lane reads eight of them at once; the gap behind them holds postings with impact 0.

The most frequent terms are dense: a byte per document, 0 where the term does not occur. Adding a
column takes no atomic. A posting takes 3 bytes and a share of an atomic, a column 1 byte per
document, so a column pays from one document in ``DENSE_SHARE`` on.

Count, for 540 blocks of 2^14 documents and 30,000 terms: tables 6 bytes x 30,000 x 540 = 97 MB
(12 bytes per term row and block before: 160 MB); gaps 7.5 postings per term and block, some 0.3 GB
beside 3.1 GB of postings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..runtime.transfer import upload
from .types import (
    DENSE_DOCUMENTS,
    DENSE_SHARE,
    MAX_DENSE,
    UNIT_POSTINGS,
    HostPostings,
    Postings,
    padded_width,
)


@dataclass(frozen=True)
class Layout:
    """Know where every posting goes, before any memory of the device is taken.

    Attributes:
        rows: int32 [V], row of each term, -1 for terms that do not occur.
        starts, lengths: int32 and int16 [R, B], as in :class:`.types.Postings`.
        dense: rows below this number are columns.
        units: multiples of 16 postings that the other rows take.
        block_rows: for each block, the rows of its terms in order, int32.
        block_size: documents of a full block.
    """

    rows: NDArray[np.int32]
    starts: NDArray[np.int32]
    lengths: NDArray[np.int16]
    dense: int
    units: int
    block_rows: list[NDArray[np.int32]]
    block_size: int

    @classmethod
    def of_rows(
        cls,
        terms: NDArray[np.int32],
        lengths: NDArray[np.int64],
        block_term_indptr: NDArray[np.int64],
        documents: int,
        block_size: int,
        *,
        dense: int | None = None,
    ) -> Layout:
        """Lay out blocks of which only the term rows are known.

        Args:
            terms, lengths: int32 and int64 [T], term and number of postings of each term row.
            block_term_indptr: int64 [B + 1], the term rows of each block.
            documents: documents of all blocks.
            block_size: documents of a full block.
            dense: how many terms are dense; None decides by their frequency.
        """
        blocks = len(block_term_indptr) - 1
        frequency = np.bincount(terms, weights=lengths).astype(np.int64)
        present = np.flatnonzero(frequency)
        ordered = present[np.argsort(-frequency[present], kind="stable")]
        rows = np.full(len(frequency), -1, dtype=np.int32)
        rows[ordered] = np.arange(len(ordered))
        if dense is None:
            often = int((frequency[ordered] * DENSE_SHARE >= documents).sum())
            dense = min(often, MAX_DENSE) if documents >= DENSE_DOCUMENTS else 0
        dense = min(dense, len(ordered))
        of_rows = rows[terms]
        units = np.where(of_rows < dense, 0, -(-lengths // UNIT_POSTINGS))
        ends = np.cumsum(units)
        owners = np.repeat(np.arange(blocks), np.diff(block_term_indptr))
        starts = np.zeros((len(ordered), blocks), dtype=np.int32)
        counts = np.zeros((len(ordered), blocks), dtype=np.int16)
        starts[of_rows, owners] = ends - units
        counts[of_rows, owners] = lengths
        block_rows = np.split(of_rows, block_term_indptr[1:-1])
        total = int(ends[-1]) if len(ends) else 0
        return cls(rows, starts, counts, dense, total, block_rows, block_size)

    @classmethod
    def of_segments(
        cls, segments: Sequence[HostPostings], block_size: int, *, dense: int | None = None
    ) -> Layout:
        """Lay out segments, in ascending order of their documents' arrivals."""
        blocks = [np.diff(segment.block_term_indptr) for segment in segments]
        return cls.of_rows(
            np.concatenate([segment.terms for segment in segments]),
            np.concatenate([np.diff(segment.indptr) for segment in segments]),
            np.concatenate([[0], np.cumsum(np.concatenate(blocks))]),
            int(sum(segment.block_documents.sum() for segment in segments)),
            block_size,
            dense=dense,
        )

    @property
    def nbytes(self) -> dict[str, int]:
        """Return the device memory in bytes by part.

        The parts are "postings", "columns", "rows" and "arrivals", the last one with the block
        table.
        """
        blocks, width = self.starts.shape[1], padded_width(self.block_size)
        return {
            "postings": 3 * UNIT_POSTINGS * self.units,
            "columns": self.dense * blocks * width,
            "rows": self.rows.nbytes + self.starts.nbytes + self.lengths.nbytes,
            "arrivals": 4 * blocks * (width + 1),
        }

    def load(
        self,
        segments: Sequence[HostPostings],
        arrivals: NDArray[np.int64],
        device: torch.device | str,
    ) -> Postings:
        """Copy the segments that were laid out to a device.

        Args:
            segments: the same.
            arrivals: int64 [documents], the arrival number of each of their documents, ascending.
            device: where they go.
        """
        places = [
            (segment, block)
            for segment in segments
            for block in range(len(segment.block_documents))
        ]

        def read(number: int) -> tuple[Tensor, Tensor]:
            segment, block = places[number]
            first, last = segment.indptr[segment.block_term_indptr[block : block + 2]]
            span = slice(first, last)
            return upload(segment.locals[span], device), upload(segment.impacts[span], device)

        counts = np.concatenate([segment.block_documents for segment in segments])
        return self.fill(device, read, np.split(arrivals, np.cumsum(counts)[:-1]))

    def fill(
        self,
        device: torch.device | str,
        read: Callable[[int], tuple[Tensor, Tensor]],
        arrivals: Sequence[NDArray[np.int64]],
    ) -> Postings:
        """Put the postings of every block where they belong.

        Args:
            device: where they go.
            read: gives the local numbers uint16 and impacts uint8 of a block, on the device, term
                row after term row.
            arrivals: arrival numbers of each block's documents, at most 2^32 - 1, ascending.
        """
        blocks, width = self.starts.shape[1], padded_width(self.block_size)
        postings = self.units * UNIT_POSTINGS
        # torch has few functions for uint16: the bytes of an int16 are the same.
        locals_ = torch.empty(postings, dtype=torch.int16, device=device)
        impacts = torch.zeros(postings, dtype=torch.uint8, device=device)
        columns = torch.zeros((self.dense, blocks, width), dtype=torch.uint8, device=device)
        known = np.zeros((blocks, width), dtype=np.uint32)
        for block, numbers in enumerate(arrivals):
            known[block, : len(numbers)] = numbers
        end = 0
        for block, rows in enumerate(self.block_rows):
            lengths = self.lengths[rows, block].astype(np.int64)
            sparse = rows >= self.dense
            places, values = read(block)
            owners = torch.repeat_interleave(upload(lengths, device))
            firsts = upload(np.cumsum(lengths) - lengths, device)
            within = torch.arange(len(owners), device=device) - firsts[owners]
            target = upload(self.starts[rows, block].astype(np.int64) * UNIT_POSTINGS, device)
            target = target[owners] + within
            # Gaps hold local numbers of their own, so that adding 0 to them collides with nothing.
            begin, end = end, end + UNIT_POSTINGS * int(-(-lengths[sparse] // UNIT_POSTINGS).sum())
            gaps = torch.arange(end - begin, device=device) % min(UNIT_POSTINGS, self.block_size)
            locals_[begin:end] = gaps.to(torch.int16)
            kept = upload(sparse, device)[owners]
            locals_[target[kept]] = places.view(torch.int16)[kept]
            impacts[target[kept]] = values[kept]
            if self.dense:
                row = upload(rows.astype(np.int64), device)[owners][~kept]
                at = places.view(torch.int16)[~kept].to(torch.int64) & 0xFFFF
                columns[row, block, at] = values[~kept]
        return Postings(
            upload(self.rows, device),
            upload(self.starts, device),
            upload(self.lengths, device),
            locals_.view(torch.uint16),
            impacts,
            columns,
            upload(known.view(np.int32), device),
            torch.arange(blocks, dtype=torch.int32, device=device),
            self.block_size,
        )


def entries(postings: Postings, rows: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
    """Return the postings of some rows one by one, whatever their layout.

    Args:
        postings: the postings.
        rows: which rows.

    Returns:
        row, place (block * block_size + local number) and impact of each posting, int64 [n]; places
        ascend inside a row.
    """
    first, last, _ = rows.indices(len(postings.starts))
    dense, frames = min(max(postings.dense, first), last), postings.frames.long()
    columns = postings.columns[first:dense, frames]
    row, block, at = torch.nonzero(columns, as_tuple=True)
    impact = columns[row, block, at].to(torch.int64)
    lengths = postings.lengths[dense:last, frames].to(torch.int64)
    sparse, blocks = torch.nonzero(lengths, as_tuple=True)
    counts = lengths[sparse, blocks]
    owners = torch.repeat_interleave(counts)
    within = torch.arange(len(owners), device=postings.device)
    within -= (counts.cumsum(0) - counts)[owners]
    starts = postings.starts[dense:last, frames][sparse, blocks].to(torch.int64) * UNIT_POSTINGS
    place = starts[owners] + within
    places = postings.locals.view(torch.int16)[place].to(torch.int64) & 0xFFFF
    return (
        torch.cat([row + first, sparse[owners] + dense]),
        torch.cat([block, blocks[owners]]) * postings.block_size + torch.cat([at, places]),
        torch.cat([impact, postings.impacts[place].to(torch.int64)]),
    )
