"""Describe what scorers take and return: blocks of postings, queries, scores.

torch is imported only where tensors are made, so that the CPU scorer does not load it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...core.vectors import MAX_QUERY_IMPACT, MAX_QUERY_TERMS, ImpactBatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .columns import Columns

# Documents of a block at most; local numbers are uint16 and a block's sums fit in shared memory.
MAX_BLOCK_DOCUMENTS = 1 << 14
# Documents whose best score is kept together (a tile): selection looks at tiles first.
TILE_DOCUMENTS = 512
# Bins by which the best scores of tiles are counted: 64 for each power of two. The bin is made of
# the leading bits of the score as a float32, so it ascends with the score.
SCORE_BINS = 2048
BIN_SHIFT = 17
FIRST_BIN = 127 << (23 - BIN_SHIFT)
# Postings of one term that a warp adds in one step.
CHUNK_POSTINGS = 256
# Postings of a term in a block begin at multiples of so many: 16 bytes of impacts.
UNIT_POSTINGS = 16
# A term is dense if it occurs in one document of so many; there are at most so many dense terms.
DENSE_SHARE = 8
MAX_DENSE = 256
# Documents below which no term is dense: fewer blocks than multiprocessors, nothing to gain.
DENSE_DOCUMENTS = 2_000_000
# Terms by which the plan of a query grows, so that its rows are aligned.
SLOT_TERMS = 16
# Blocks that one launch takes: the limit of a grid in its second dimension.
MAX_BLOCKS = 65_535
# Share of the documents of a block from which a term gets a column in the CPU scorer.
COLUMN_SHARE = 0.2


@dataclass(frozen=True)
class Block:
    """Hold up to 2^14 consecutive documents, their postings grouped by term.

    Attributes:
        terms: int32 [T], the terms of the block, strictly ascending.
        indptr: int64 [T + 1], term row t owns ``locals[indptr[t]:indptr[t + 1]]``; need not start
            at 0.
        locals: uint16 [P], document numbers within the block, strictly ascending inside a row.
        impacts: uint8 [P], 1 to 255.
        documents: how many documents the block holds, 0 to 16,384.
    """

    terms: NDArray[np.int32]
    indptr: NDArray[np.int64]
    locals: NDArray[np.uint16]
    impacts: NDArray[np.uint8]
    documents: int

    def check(self) -> None:
        """Check every invariant above.

        Raises:
            InputError: an array breaks its rule; the message names it.
        """
        for name, dtype in (
            ("terms", np.int32),
            ("indptr", np.int64),
            ("locals", np.uint16),
            ("impacts", np.uint8),
        ):
            array = getattr(self, name)
            if array.ndim != 1 or array.dtype != dtype:
                raise InputError(
                    f"block: {name} is {array.dtype} {list(array.shape)}; must be "
                    f"{np.dtype(dtype)} [n]"
                )
        if not 0 <= self.documents <= MAX_BLOCK_DOCUMENTS:
            raise InputError(
                f"block: documents is {self.documents}; allowed 0 to {MAX_BLOCK_DOCUMENTS}"
            )
        if (self.terms[:1] < 0).any() or (np.diff(self.terms) <= 0).any():
            raise InputError("block: terms must be >= 0 and strictly ascending")
        if (
            len(self.indptr) != len(self.terms) + 1
            or self.indptr[0] < 0
            or (np.diff(self.indptr) < 0).any()
        ):
            raise InputError("block: indptr must ascend and have one entry more than terms")
        if self.indptr[-1] > len(self.locals) or len(self.locals) != len(self.impacts):
            raise InputError("block: indptr, locals and impacts do not agree in length")
        rows = slice(self.indptr[0], self.indptr[-1])
        locals_, impacts = self.locals[rows], self.impacts[rows]
        # Each local number is above the one before it, or begins a row.
        rising = locals_[1:] > locals_[:-1]
        begins = self.indptr[1:-1] - self.indptr[0]
        rising[begins[(begins > 0) & (begins < len(locals_))] - 1] = True
        if not rising.all():
            raise InputError("block: locals must ascend strictly inside a term")
        if len(locals_) and locals_.max() >= self.documents:
            raise InputError(f"block: a local number is >= the block's {self.documents} documents")
        if not impacts.all():
            raise InputError("block: an impact is 0; allowed 1 to 255")


class HostPostings(Protocol):
    """Describe a run of blocks in host memory, as a segment holds them.

    Block b owns the term rows ``block_term_indptr[b]:block_term_indptr[b + 1]``; term row t owns
    the postings ``indptr[t]:indptr[t + 1]``.
    """

    @property
    def block_documents(self) -> NDArray[np.int32]:
        """int32 [B], documents of each block."""

    @property
    def block_term_indptr(self) -> NDArray[np.int64]:
        """int64 [B + 1]."""

    @property
    def terms(self) -> NDArray[np.int32]:
        """int32 [T], strictly ascending inside a block."""

    @property
    def indptr(self) -> NDArray[np.int64]:
        """int64 [T + 1]."""

    @property
    def locals(self) -> NDArray[np.uint16]:
        """uint16 [P], document numbers within their block, strictly ascending inside a row."""

    @property
    def impacts(self) -> NDArray[np.uint8]:
        """uint8 [P], 1 to 255."""

    @property
    def columns(self) -> Columns:
        """The columns of frequent terms, derived from the arrays above."""


def padded_width(block_size: int) -> int:
    """Return the scores kept per block: ``block_size`` as a power of two, at least a tile."""
    return max(TILE_DOCUMENTS, 1 << (block_size - 1).bit_length())


@dataclass(frozen=True, eq=False)
class Postings:
    """Hold a run of blocks on one device, as :mod:`.layout` lays them out.

    What is known of a block lies in its frame: a column of ``starts`` and ``lengths``, a row of
    ``columns`` and ``arrivals``. The block table ``frames`` says in which frame each block lies, so
    that blocks of any length lie anywhere, and a change of the collection is another block table.

    Attributes:
        rows: int32 [V], row of each term, -1 for terms that do not occur.
        starts: int32 [R, F], where the postings of a row begin in a frame, in units of 16.
        lengths: int16 [R, F], postings of a row in a frame.
        locals: uint16 [P], document numbers within their block, distinct inside a row and block.
        impacts: uint8 [P], 1 to 255; 0 in the gaps behind the postings of a row and block.
        columns: uint8 [C, F, width], impacts of the rows below C by document, 0 where the term does
            not occur; these rows have lengths but no postings.
        arrivals: int32 [F, width], the bits of the uint32 arrival number of each document, see
            ``core/ranking_key.py``; ascending inside a block.
        frames: int32 [B], frame of each block; blocks ascend by the arrivals of their documents.
        block_size: documents of a block at most, 1 to 16,384.
    """

    rows: Tensor
    starts: Tensor
    lengths: Tensor
    locals: Tensor
    impacts: Tensor
    columns: Tensor
    arrivals: Tensor
    frames: Tensor
    block_size: int = MAX_BLOCK_DOCUMENTS

    @property
    def blocks(self) -> int:
        """Return B."""
        return len(self.frames)

    @property
    def frame_count(self) -> int:
        """Return F."""
        return len(self.arrivals)

    @property
    def dense(self) -> int:
        """Return C."""
        return self.columns.shape[0]

    @property
    def device(self) -> torch.device:
        """Return the device of the tensors."""
        return self.rows.device

    @property
    def nbytes(self) -> int:
        """Return the bytes of all tensors."""
        values = (getattr(self, field.name) for field in fields(self))
        return sum(value.nbytes for value in values if not isinstance(value, int))

    @property
    def width(self) -> int:
        """Return the scores kept per block."""
        return padded_width(self.block_size)

    def between(self, first: int, last: int) -> Postings:
        """Return blocks ``first`` to ``last - 1`` (a view of the block table)."""
        return replace(self, frames=self.frames[first:last])


@dataclass(frozen=True)
class Queries:
    """Hold query vectors on a device; their contents are checked already (``check_queries``).

    Attributes:
        indptr: int64 [n + 1]; need not start at 0.
        terms: int32 [nnz], strictly ascending within a row.
        impacts: int32 [nnz], 1 to 4,095.
        longest: no query has more terms; a Python int, so that reading it does not synchronize. A
            multiple of ``SLOT_TERMS``.
    """

    indptr: Tensor
    terms: Tensor
    impacts: Tensor
    longest: int

    def __post_init__(self) -> None:
        if self.longest % SLOT_TERMS:
            raise ValueError(f"longest: {self.longest} must be a multiple of {SLOT_TERMS}")

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @classmethod
    def from_impacts(cls, batch: ImpactBatch, device: torch.device | str) -> Queries:
        """Copy a checked batch to the device."""
        from ..runtime.transfer import upload

        longest = int(np.diff(batch.indptr).max(initial=1))
        return cls(
            upload(batch.indptr.astype(np.int64), device),
            upload(batch.terms, device),
            upload(batch.impacts, device),
            -(-longest // SLOT_TERMS) * SLOT_TERMS,
        )

    def to(self, device: torch.device) -> Queries:
        """Return the queries on a device, copied without waiting."""
        return Queries(
            self.indptr.to(device, non_blocking=True),
            self.terms.to(device, non_blocking=True),
            self.impacts.to(device, non_blocking=True),
            self.longest,
        )

    def between(self, first: int, last: int) -> Queries:
        """Return queries ``first`` to ``last - 1`` (views)."""
        return Queries(self.indptr[first : last + 1], self.terms, self.impacts, self.longest)


@dataclass(frozen=True)
class BlockScores:
    """Hold the scores of n queries in B blocks; width and tiles are those of the postings.

    Attributes:
        scores: int32 [n, B, width], 0 where no term is shared or the mask excludes the document. A
            scorer that was told k leaves tiles unfilled that cannot hold one of the k best.
        tiles: int64 [n, B * width / 512], for each run of 512 documents its best score above 32
            bits that hold 2^32 - 1 minus the number of the tile; 0 where the best score is 0.
        histogram: int32 [n, 2048], tiles by the bin of their best score, see ``SCORE_BINS``; tiles
            with best score 0 are not counted.
        matched: int64 [n], documents in the mask that share at least one term.
        postings: int64 [n], postings read.
        least: int32 [n], a bin that k tiles reach, if the scorer was told k and knows one; else 0.
    """

    scores: Tensor
    tiles: Tensor
    histogram: Tensor
    matched: Tensor
    postings: Tensor
    least: Tensor


def check_queries(queries: ImpactBatch, vocabulary_size: int | None = None) -> None:
    """Check what every scorer relies on: distinct existing terms, and sums that fit int32.

    Raises:
        InputError: naming the query, the value and the bound.
    """
    lengths = np.diff(queries.indptr)
    if len(queries.indptr) < 1 or queries.indptr[0] != 0 or (lengths < 0).any():
        raise InputError("queries: indptr must start at 0 and ascend")
    if not len(queries.terms) == len(queries.impacts) == queries.indptr[-1]:
        raise InputError(
            f"queries: indptr ends at {queries.indptr[-1]}, but there are {len(queries.terms)} "
            f"terms and {len(queries.impacts)} impacts"
        )
    if queries.terms.dtype != np.int32 or queries.impacts.dtype != np.int32:
        raise InputError(
            f"queries: terms are {queries.terms.dtype} and impacts {queries.impacts.dtype}; both "
            "must be int32"
        )
    if (lengths > MAX_QUERY_TERMS).any():
        i = int(lengths.argmax())
        raise InputError(f"query {i}: {lengths[i]} terms; allowed at most {MAX_QUERY_TERMS}")
    if not len(queries.terms):
        return

    def owner(entry: np.integer) -> int:
        return int(np.searchsorted(queries.indptr, entry, side="right")) - 1

    low, high = queries.impacts.argmin(), queries.impacts.argmax()
    for entry in (low, high):
        if not 1 <= queries.impacts[entry] <= MAX_QUERY_IMPACT:
            raise InputError(
                f"query {owner(entry)}: impact of term {queries.terms[entry]} is "
                f"{queries.impacts[entry]}; allowed 1 to {MAX_QUERY_IMPACT}"
            )
    highest = 2**31 - 1 if vocabulary_size is None else vocabulary_size - 1
    for entry in (queries.terms.argmin(), queries.terms.argmax()):
        if not 0 <= queries.terms[entry] <= highest:
            raise InputError(
                f"query {owner(entry)}: term {queries.terms[entry]} is out of range; allowed 0 to "
                f"{highest}"
            )
    falls = np.flatnonzero(np.diff(queries.terms) <= 0) + 1
    if falls.size and (inside := falls[~np.isin(falls, queries.indptr)]).size:
        raise InputError(
            f"query {owner(inside[0])}: terms must ascend strictly, {queries.terms[inside[0]]} "
            f"follows {queries.terms[inside[0] - 1]}"
        )


def check_mask(mask: Tensor | None, queries: int, postings: Postings) -> None:
    """Check that a mask is None or has a byte for every document position of every block.

    Raises:
        InputError: another dtype, shape, layout or device.
    """
    import torch

    places = postings.blocks * postings.block_size
    if mask is None:
        return
    if mask.dtype != torch.uint8 or mask.shape not in ((places,), (queries, places)):
        raise InputError(
            f"mask: {mask.dtype} {list(mask.shape)} does not fit; must be uint8 [{places}] or "
            f"[{queries}, {places}] (blocks * block_size)"
        )
    if not mask.is_contiguous() or mask.device != postings.device:
        raise InputError(
            f"mask: strides {mask.stride()} on {mask.device}; must be contiguous on "
            f"{postings.device}"
        )
