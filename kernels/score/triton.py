"""Score blocks in Triton: the plan, which the Gluon backend uses too, and the portable kernel.

The plan holds, for query q, block b and the i-th term of q, at ``(q * B + b) * longest + i``:
``starts`` int32, where the postings of the term begin in the block, in units of 16; ``lengths``
int32, how many there are (0 if the block lacks the term); ``ends`` int32, the number of chunks of
the terms 0 to i; a dense term has none. Chunk c of (q, b) belongs to the first term whose ``ends``
is above c; counting the entries that are not above c finds it (one step for 64 terms). Chunks are
alike whatever the lengths of the terms. ``rows`` int32, in the order of the queries' terms, is the
row of each, -1 if it does not occur.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.ranking_key import LAST_ARRIVAL
from ..runtime.aot import AotCase
from ..runtime.launch import Support, jit, on_device, tl, triton, triton_support
from .types import (
    BIN_SHIFT,
    CHUNK_POSTINGS,
    FIRST_BIN,
    MAX_BLOCK_DOCUMENTS,
    MAX_BLOCKS,
    SCORE_BINS,
    SLOT_TERMS,
    TILE_DOCUMENTS,
    UNIT_POSTINGS,
    BlockScores,
    Postings,
    Queries,
)

# Query terms that a program looks up, or searches for the term of a chunk, in one step.
TERMS = 64
# Blocks whose plan one program makes, and its warps.
PLAN_BLOCKS = 16
PLAN_WARPS = 4
# Chunks that a program of the portable kernel adds in one step, and its warps.
ROWS = 4
WARPS = 8


# Arguments of a scoring kernel that vary from launch to launch.
VARYING = (
    "query_indptr", "matched", "histogram", "columns", "frames", "blocks", "total", "dense",
    "slots", "mask_stride",
)  # fmt: skip


@jit(
    varying=(
        "row_starts", "row_lengths", "frames", "query_indptr", "postings",
        "blocks", "total", "terms", "dense", "slots",
    )
)  # fmt: skip
def plan_kernel(  # type: ignore[no-untyped-def]
    term_rows, row_starts, row_lengths, frames, query_indptr, query_terms,
    starts, lengths, ends, query_rows, postings, blocks, total, terms, dense, slots,
    CHUNK: tl.constexpr, TERMS: tl.constexpr, SLOT: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Fill the plan of a query and some blocks; add its postings to ``postings[query]``."""
    query = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    first = tl.load(query_indptr + query)
    count = (tl.load(query_indptr + query + 1) - first).to(tl.int32)
    plan = (query * blocks + block) * (slots * SLOT)
    frame = tl.load(frames + block, mask=block < blocks, other=0)
    chunks = tl.zeros([BLOCKS], tl.int32)
    read = tl.zeros([BLOCKS], tl.int32)
    for base in range(0, count, TERMS):
        at = base + tl.arange(0, TERMS)
        inside = at < count
        term = tl.load(query_terms + first + at, mask=inside, other=0)
        row = tl.load(term_rows + term, mask=inside & (term < terms), other=-1)
        tl.store(query_rows + first + at, row, mask=inside & (tl.program_id(1) == 0))
        here = inside[None, :] & (block < blocks)[:, None]
        cell = row.to(tl.int64)[None, :] * total + frame[:, None]
        start = tl.load(row_starts + cell, mask=here & (row >= 0)[None, :], other=0)
        length = tl.load(row_lengths + cell, mask=here & (row >= 0)[None, :], other=0)
        length = length.to(tl.int32)
        cut = tl.where((row < dense)[None, :], 0, (length + (CHUNK - 1)) // CHUNK)
        place = plan[:, None] + at[None, :]
        tl.store(starts + place, start, mask=here)
        tl.store(lengths + place, length, mask=here)
        tl.store(ends + place, chunks[:, None] + tl.cumsum(cut, 1), mask=here)
        chunks += tl.sum(cut, 1)
        read += tl.sum(length, 1)
    added = tl.sum(read.to(tl.int64), 0)
    tl.atomic_add(postings + query, added, sem="relaxed")


@jit
def score_bin(score, SHIFT: tl.constexpr, FIRST: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the bin of scores > 0."""
    return (score.to(tl.float32).to(tl.int32, bitcast=True) >> SHIFT) - FIRST


@jit
def add_columns(  # type: ignore[no-untyped-def]
    score, place, columns, query_rows, query_impacts, terms, frame, total, dense,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Return the sums of some places of a block with those of the query's dense terms added."""
    for i in range(0, terms):
        row = tl.load(query_rows + i)
        if (row >= 0) & (row < dense):
            weight = tl.load(query_impacts + i)
            cell = (row.to(tl.int64) * total + frame) * WIDTH
            score += weight * tl.load(columns + cell + place).to(tl.int32)
    return score


@jit(varying=(*VARYING, "mask"))
def score_kernel(  # type: ignore[no-untyped-def]
    starts, lengths, ends, query_indptr, query_impacts, query_rows, locals_, impacts, columns,
    frames, mask, scores, tiles, histogram, matched, blocks, total, dense, slots,
    mask_stride: tl.int64,
    BLOCK_SIZE: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
    TERMS: tl.constexpr, SLOT: tl.constexpr, ROWS: tl.constexpr, HAS_MASK: tl.constexpr,
    UNIT: tl.constexpr, DENSE: tl.constexpr,
    BINS: tl.constexpr, SHIFT: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Zero the scores of (query, block), add chunk by chunk with global atomics, read them once.

    No other program writes these scores, so barriers order everything. The read bypasses the
    first-level cache, which atomics do not update.
    """
    query, block = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    sums = scores + (query * blocks + block) * WIDTH
    for base in range(0, WIDTH, TILE):
        tl.store(sums + base + tl.arange(0, TILE), tl.zeros([TILE], tl.int32))
    first = tl.load(query_indptr + query)
    terms = (tl.load(query_indptr + query + 1) - first).to(tl.int32)
    plan = (query * blocks + block) * (slots * SLOT)
    chunks = tl.load(ends + plan + terms - 1, mask=terms > 0, other=0)
    tl.debug_barrier()
    for base in range(0, chunks, ROWS):
        chunk = base + tl.arange(0, ROWS)
        active = chunk < chunks
        passed = tl.zeros([ROWS, TERMS], tl.int32)
        for i in range(0, terms, TERMS):  # the first term whose chunks end above this one
            term = i + tl.arange(0, TERMS)
            end = tl.load(ends + plan + term, mask=term < terms, other=2**31 - 1)
            passed += (end[None, :] <= chunk[:, None]).to(tl.int32)
        owner = tl.sum(passed, 1)
        length = tl.load(lengths + plan + owner, mask=active, other=0)
        end = tl.load(ends + plan + owner, mask=active, other=0)
        skip = (chunk - end + (length + (CHUNK - 1)) // CHUNK) * CHUNK
        start = tl.load(starts + plan + owner, mask=active, other=0).to(tl.int64) * UNIT + skip
        weight = tl.load(query_impacts + first + owner, mask=active, other=0)
        column = tl.arange(0, CHUNK)[None, :]
        # To the end of the gap, whose impacts are 0: the bound is a multiple of the unit.
        whole = (length + (UNIT - 1)) // UNIT * UNIT - skip
        live = active[:, None] & (column < whole[:, None])
        place = tl.load((locals_ + start)[:, None] + column, mask=live, other=0).to(tl.int32)
        value = tl.load((impacts + start)[:, None] + column, mask=live, other=0).to(tl.int32)
        tl.atomic_add(sums + place, value * weight[:, None], mask=live, sem="relaxed")
    tl.debug_barrier()
    count = tl.zeros([1], tl.int32)
    for tile in range(0, WIDTH // TILE):
        place = tile * TILE + tl.arange(0, TILE)
        score = tl.load(sums + place, cache_modifier=".cg")
        if DENSE:
            score = add_columns(
                score, place, columns, query_rows + first, query_impacts + first, terms,
                tl.load(frames + block), total, dense, WIDTH,
            )  # fmt: skip
        if HAS_MASK:
            keep = tl.load(
                mask + query * mask_stride + block * BLOCK_SIZE + place,
                mask=place < BLOCK_SIZE,
                other=0,
            )
            score = tl.where(keep != 0, score, 0)
        if HAS_MASK or DENSE:
            tl.store(sums + place, score)
        count += tl.sum((score > 0).to(tl.int32), 0)
        best = tl.max(score, 0)
        if best > 0:
            tl.atomic_add(
                histogram + query * BINS + score_bin(best, SHIFT, FIRST), 1, sem="relaxed"
            )
        number = block * (WIDTH // TILE) + tile
        key = tl.where(best > 0, (best.to(tl.int64) << 32) | (LAST - number), 0)
        tl.store(tiles + query * blocks * (WIDTH // TILE) + number, key)
    tl.atomic_add(matched + query + tl.arange(0, 1), count.to(tl.int64), sem="relaxed")


class Plan:
    """Hold the plan of a batch; ``plan_kernel`` fills it.

    Args:
        read: int64 [n]; the kernel adds the postings of each query to it.
    """

    def __init__(self, queries: Queries, postings: Postings, read: Tensor) -> None:
        device = postings.device
        shape = (3, len(queries), postings.blocks, queries.longest)
        self.starts, self.lengths, self.ends = torch.empty(shape, dtype=torch.int32, device=device)
        self.rows = torch.empty_like(queries.terms)
        with on_device(postings.rows):
            plan_kernel[(len(queries), triton.cdiv(postings.blocks, PLAN_BLOCKS))](
                postings.rows, postings.starts, postings.lengths, postings.frames,
                queries.indptr, queries.terms, self.starts, self.lengths, self.ends, self.rows,
                read, postings.blocks, postings.starts.stride(0), len(postings.rows),
                postings.dense, queries.longest // SLOT_TERMS,
                CHUNK=CHUNK_POSTINGS, TERMS=TERMS, SLOT=SLOT_TERMS, BLOCKS=PLAN_BLOCKS,
                num_warps=PLAN_WARPS,
            )  # fmt: skip

    def arguments(
        self, queries: Queries, postings: Postings, mask: Tensor | None, found: BlockScores
    ) -> tuple[Any, ...]:
        """Return the arguments that the Triton and the Gluon kernel share, in order."""
        return (
            self.starts, self.lengths, self.ends, queries.indptr, queries.impacts, self.rows,
            postings.locals, postings.impacts, postings.columns, postings.frames,
            found.scores if mask is None else mask,
            found.scores, found.tiles, found.histogram, found.matched,
            postings.blocks, postings.starts.stride(0), postings.dense,
            queries.longest // SLOT_TERMS, mask_stride(mask),
        )  # fmt: skip


def empty_scores(queries: Queries, postings: Postings) -> BlockScores:
    """Allocate the result: scores and tiles unfilled, counts at 0, because kernels add to them."""
    n, blocks, width = len(queries), postings.blocks, postings.width
    zeros = torch.zeros(n * (SCORE_BINS // 2 + 3), dtype=torch.int64, device=postings.device)
    matched, read, least, histogram = zeros.split([n, n, n, n * SCORE_BINS // 2])
    return BlockScores(
        torch.empty((n, blocks, width), dtype=torch.int32, device=postings.device),
        torch.empty(
            (n, blocks * (width // TILE_DOCUMENTS)), dtype=torch.int64, device=postings.device
        ),
        histogram.view(torch.int32).view(n, SCORE_BINS),
        matched,
        read,
        least.view(torch.int32)[:n],
    )


def mask_stride(mask: Tensor | None) -> int:
    """Return the bytes from the mask of one query to that of the next; 0 where they share one."""
    return 0 if mask is None or mask.ndim == 1 else mask.shape[1]


def supports(postings: Postings) -> Support:
    """Say whether Triton kernels run on the device of these postings, and take so many blocks."""
    if postings.blocks > MAX_BLOCKS:
        return Support(f"{postings.blocks} blocks are more than the {MAX_BLOCKS} of a launch")
    return triton_support(postings.device)


def score_blocks(queries: Queries, postings: Postings, mask: Tensor | None, k: int) -> BlockScores:
    """Compute :func:`.api.score_blocks` with global atomics, which need all scores in memory."""
    found = empty_scores(queries, postings)
    plan = Plan(queries, postings, found.postings)
    with on_device(postings.rows):
        score_kernel[(len(queries), postings.blocks)](
            *plan.arguments(queries, postings, mask, found),
            BLOCK_SIZE=postings.block_size, WIDTH=postings.width, TILE=TILE_DOCUMENTS,
            CHUNK=CHUNK_POSTINGS, TERMS=TERMS, SLOT=SLOT_TERMS, ROWS=ROWS,
            HAS_MASK=mask is not None, UNIT=UNIT_POSTINGS, DENSE=postings.dense > 0,
            BINS=SCORE_BINS, SHIFT=BIN_SHIFT, FIRST=FIRST_BIN,
            LAST=LAST_ARRIVAL, num_warps=WARPS,
        )  # fmt: skip
    return found


# Types of the arguments that the Triton and the Gluon kernel share.
SCORE_SIGNATURE = {
    "starts": "*i32", "lengths": "*i32", "ends": "*i32", "query_indptr": "*i64",
    "query_impacts": "*i32", "query_rows": "*i32", "locals_": "*u16", "impacts": "*u8",
    "columns": "*u8", "frames": "*i32", "mask": "*u8", "scores": "*i32", "tiles": "*i64",
    "histogram": "*i32", "matched": "*i64",
    "blocks": "i32", "total": "i32", "dense": "i32", "slots": "i32", "mask_stride": "i64",
}  # fmt: skip
ALIGNED = ("starts", "lengths", "ends", "locals_", "impacts", "mask", "scores", "tiles")
# Name, mask, dense columns: the variants of a scoring kernel.
VARIANTS = (("all", False, False), ("mask", True, False), ("dense-mask", True, True))


def _score_case(name: str, has_mask: bool, dense: bool) -> AotCase:
    constexprs = {
        "BLOCK_SIZE": MAX_BLOCK_DOCUMENTS, "WIDTH": MAX_BLOCK_DOCUMENTS, "TILE": TILE_DOCUMENTS,
        "CHUNK": CHUNK_POSTINGS, "TERMS": TERMS, "SLOT": SLOT_TERMS, "ROWS": ROWS,
        "HAS_MASK": has_mask, "UNIT": UNIT_POSTINGS, "DENSE": dense, "BINS": SCORE_BINS,
        "SHIFT": BIN_SHIFT, "FIRST": FIRST_BIN, "LAST": LAST_ARRIVAL,
    }  # fmt: skip
    return AotCase(
        name=f"score/triton/{name}",
        kernel=score_kernel,
        signature=SCORE_SIGNATURE | dict.fromkeys(constexprs, "constexpr"),
        constexprs=constexprs,
        num_warps=WARPS,
        aligned=ALIGNED,
        expects={80: ("RED.E.ADD",), 90: ("REDG.E.ADD",)},
    )


AOT = [
    AotCase(
        name="score/plan",
        kernel=plan_kernel,
        signature={
            "term_rows": "*i32", "row_starts": "*i32", "row_lengths": "*i16", "frames": "*i32",
            "query_indptr": "*i64", "query_terms": "*i32",
            "starts": "*i32", "lengths": "*i32", "ends": "*i32", "query_rows": "*i32",
            "postings": "*i64", "blocks": "i32", "total": "i32", "terms": "i32", "dense": "i32",
            "slots": "i32",
            "CHUNK": "constexpr", "TERMS": "constexpr", "SLOT": "constexpr", "BLOCKS": "constexpr",
        },
        constexprs={
            "CHUNK": CHUNK_POSTINGS, "TERMS": TERMS, "SLOT": SLOT_TERMS, "BLOCKS": PLAN_BLOCKS,
        },
        num_warps=PLAN_WARPS,
        aligned=("starts", "lengths", "ends", "term_rows", "query_terms", "query_rows"),
    ),
    *(_score_case(*variant) for variant in VARIANTS),
]  # fmt: skip
