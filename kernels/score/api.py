"""score_blocks: a batch of queries against many blocks on one device, exact in int32.

``scores[q, b, d] = sum over shared terms of query impact * document impact``, for documents that
are alive, else 0: the numbers of :func:`csplade.kernels.score.reference.score`. Three ways give the
same bytes (``PATHS``):

- ``torch``: plain torch, term by term, on any device; the twin that tests compare with.
- ``portable``: Triton, global atomics; runs in the interpreter too (``score_triton.py``).
- ``shared``: Gluon, a block's sums in shared memory; the fast one (``score_shared.py``).

Both kernels first run ``plan``: a program per (query, block) finds where each query term's postings
lie in the block and cuts them into chunks of ``CHUNK``, so that a term with five postings costs one
warp's step and not a program's. That pre-pass also counts the postings read.

Bytes moved per query by the kernels, with P postings of its terms, D documents, m terms, B blocks:
3 P (postings) + 4 D (scores written once) + 8 D / 512 (tile keys) + D (alive, where there is one) +
32 m B (plan written and read). For P = 40 M, D = 8.8 M, m = 43, B = 540: 121 + 35 + 0.1 + 8.8 + 0.7
MB.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InputError
from ...core.ranking_key import LAST_ARRIVAL
from ...core.vectors import ImpactBatch
from ..runtime.launch import use_triton
from .reference import MAX_BLOCK_DOCUMENTS

PATHS = ("torch", "portable", "shared")
# Documents whose best score is kept together: selection looks at tiles first. One warp reduces one
# tile.
TILE = 512
# Postings that a warp takes at a time.
CHUNK = 256


@dataclass(frozen=True)
class Postings:
    """A run of blocks on one device, exactly as a segment holds them; nothing is checked or
    converted.

    Attributes:
        block_documents: int32 [B], documents in each block.
        block_term_indptr: int64 [B + 1], block b owns term rows
            ``block_term_indptr[b]:block_term_indptr[b + 1]``.
        terms: int32 [T], strictly ascending inside a block.
        indptr: int64 [T + 1], term row t owns postings ``indptr[t]:indptr[t + 1]``.
        locals: uint16 [P], document numbers within their block, distinct inside a term row.
        impacts: uint8 [P], 1 to 255.
        block_size: how far the first ordinals of two neighbouring blocks lie apart, 1 to 16,384.
    """

    block_documents: Tensor
    block_term_indptr: Tensor
    terms: Tensor
    indptr: Tensor
    locals: Tensor
    impacts: Tensor
    block_size: int = MAX_BLOCK_DOCUMENTS

    @property
    def blocks(self) -> int:
        """B."""
        return len(self.block_documents)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.terms.device

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(
            value.nbytes
            for value in (getattr(self, field.name) for field in fields(self))
            if isinstance(value, Tensor)
        )

    @property
    def width(self) -> int:
        """Scores kept per block: ``block_size`` rounded up to a power of two, at least a tile."""
        return max(TILE, 1 << (self.block_size - 1).bit_length())

    def between(self, first: int, last: int) -> Postings:
        """Blocks ``first`` to ``last - 1`` (views)."""
        return Postings(
            self.block_documents[first:last],
            self.block_term_indptr[first : last + 1],
            self.terms,
            self.indptr,
            self.locals,
            self.impacts,
            self.block_size,
        )


@dataclass(frozen=True)
class Queries:
    """Query vectors on a device; what they hold was checked before (``check_queries``).

    Attributes:
        indptr: int64 [n + 1]; need not start at 0.
        terms: int32 [nnz], strictly ascending within a row.
        impacts: int32 [nnz], 1 to 4,095.
        longest: no query has more terms than this; a Python int, so that nobody asks the device. A
            multiple of 16 lets Triton compile its kernels once.
    """

    indptr: Tensor
    terms: Tensor
    impacts: Tensor
    longest: int

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @classmethod
    def from_impacts(cls, batch: ImpactBatch, device: torch.device | str) -> Queries:
        """Copy a checked batch to the device."""

        def copy(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(
                device, non_blocking=True
            )

        longest = int(np.diff(batch.indptr).max(initial=1))
        return cls(
            copy(batch.indptr.astype(np.int64)),
            copy(batch.terms),
            copy(batch.impacts),
            -(-longest // 16) * 16,
        )

    def between(self, first: int, last: int) -> Queries:
        """Queries ``first`` to ``last - 1`` (views)."""
        return Queries(self.indptr[first : last + 1], self.terms, self.impacts, self.longest)


@dataclass(frozen=True)
class BlockScores:
    """What ``score_blocks`` gives back for n queries and B blocks; width and tiles are those of the
    postings.

    Attributes:
        scores: int32 [n, B, width], 0 where no term is shared or the document is not alive.
        tiles: int64 [n, B * width / 512], for each run of 512 places its best score above 32 bits
            that hold 2^32 - 1 minus the tile's number; 0 where the best score is 0.
        matched: int64 [n], living documents that share at least one term.
        postings: int64 [n], postings read.
        block_size: of the postings.
    """

    scores: Tensor
    tiles: Tensor
    matched: Tensor
    postings: Tensor
    block_size: int


def bytes_per_query(blocks: int, width: int, longest: int) -> int:
    """Device memory that ``score_blocks`` takes for one query: scores, tile keys and plan."""
    return blocks * (4 * width + 8 * (width // TILE) + 16 * longest)


def choose_path(postings: Postings) -> str:
    """The fastest path there is for these postings: see the module."""
    if not use_triton(postings.terms):
        return "torch"
    from . import gluon as score_shared

    return "shared" if score_shared.fits(postings) else "portable"


def check_alive(alive: Tensor | None, queries: int, postings: Postings) -> None:
    """Raise InputError unless ``alive`` is None or has a byte for every place of every block."""
    places = postings.blocks * postings.block_size
    if alive is None:
        return
    if alive.dtype != torch.uint8 or alive.shape not in ((places,), (queries, places)):
        raise InputError(
            f"alive must be uint8 [{places}] or [{queries}, {places}] (blocks * block_size), "
            f"is {alive.dtype} {list(alive.shape)}"
        )
    if not alive.is_contiguous() or alive.device != postings.device:
        raise InputError(
            f"alive must be contiguous on {postings.device}, is on {alive.device}, strides "
            f"{alive.stride()}"
        )


def score_blocks(
    queries: Queries, postings: Postings, *, alive: Tensor | None = None, path: str | None = None
) -> BlockScores:
    """Score every query against every block; no host synchronisation except on the ``torch`` path.

    Args:
        queries: n queries on the device of the postings.
        postings: B blocks, at most 65,535 for the kernels.
        alive: uint8 [B * block_size] for all queries, or [n, B * block_size] to filter each by its
            own; 0 leaves the document out of scores and ``matched``. A byte per document, as the
            index keeps them on the CPU too: one pass reads 8.8 MB for 8.8 M documents, a quarter of
            the scores written in that pass.
        path: one of ``PATHS``; None takes the fastest there is.

    Raises:
        InputError: an ``alive`` of another shape, or an unknown path.
    """
    path = choose_path(postings) if path is None else path
    if path not in PATHS:
        raise InputError(f"path is {path!r}, allowed {', '.join(PATHS)}")
    check_alive(alive, len(queries), postings)
    if path == "torch" or not len(queries) or not postings.blocks:
        return score_blocks_torch(queries, postings, alive)
    from . import triton as score_triton

    if path == "portable":
        return score_triton.score_blocks(queries, postings, alive)
    from . import gluon as score_shared

    return score_shared.score_blocks(queries, postings, alive)


def score_blocks_torch(queries: Queries, postings: Postings, alive: Tensor | None) -> BlockScores:
    """The twin: term by term in plain torch, on any device; it asks the device for every offset."""
    n, blocks, width = len(queries), postings.blocks, postings.width
    scores = torch.zeros((n, blocks, width), dtype=torch.int32, device=postings.device)
    read = torch.zeros(n, dtype=torch.int64)
    bounds, rows_of = queries.indptr.tolist(), postings.block_term_indptr.tolist()
    for q in range(n):
        terms = queries.terms[bounds[q] : bounds[q + 1]]
        impacts = queries.impacts[bounds[q] : bounds[q + 1]].tolist()
        for b in range(blocks):
            here = postings.terms[rows_of[b] : rows_of[b + 1]]
            rows = torch.searchsorted(here, terms)
            known = torch.isin(terms, here).tolist()
            for row, there, impact in zip(rows.tolist(), known, impacts, strict=True):
                if there:
                    start, end = postings.indptr[rows_of[b] + row : rows_of[b] + row + 2].tolist()
                    scores[q, b].index_add_(
                        0,
                        postings.locals[start:end].to(torch.int64),
                        impact * postings.impacts[start:end].to(torch.int32),
                    )
                    read[q] += end - start
    if alive is not None:
        scores[:, :, : postings.block_size] *= (
            (alive != 0).view(-1, blocks, postings.block_size).to(torch.int32)
        )
    best = scores.view(n, blocks * (width // TILE), TILE).amax(dim=2).to(torch.int64)
    numbers = LAST_ARRIVAL - torch.arange(best.shape[1], device=best.device)
    return BlockScores(
        scores,
        torch.where(best > 0, (best << 32) | numbers, 0),
        (scores > 0).sum(dim=(1, 2)),
        read.to(postings.device),
        postings.block_size,
    )
