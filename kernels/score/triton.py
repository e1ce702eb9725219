"""The Triton side of ``score_blocks``: the plan, which the fast path uses too, and the portable
kernel.

The plan, for query q, block b and the i-th term of q, at ``(q * B + b) * longest + i``: ``starts``
int64, where the term's postings in the block begin; ``lengths`` int32, how many there are (0 if the
block has no such term); ``ends`` int32, the chunks of ``CHUNK`` postings in terms 0 to i together.
Chunk c of (q, b) thus belongs to the first term whose ``ends`` is above c, which counting the
entries that are not finds (one step for 64 terms); all chunks are alike whatever the terms'
lengths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.ranking_key import LAST_ARRIVAL
from ..runtime.launch import AotCase, jit, tl
from .api import CHUNK, TILE, BlockScores, Postings, Queries
from .reference import MAX_BLOCK_DOCUMENTS

# Query terms that the plan looks up together, and among which a chunk's term is found together.
TERMS = 64
# Chunks that a program of the portable kernel takes at a time, and its warps.
ROWS = 8
WARPS = 8


@jit
def plan_kernel(  # type: ignore[no-untyped-def]
    block_term_indptr, terms, indptr, query_indptr, query_terms,
    starts, lengths, ends, postings, blocks, longest,
    CHUNK: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """Program (query, block): see the module. Adds the postings it found to ``postings[query]``."""
    query, block = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    first_row = tl.load(block_term_indptr + block)
    rows = (tl.load(block_term_indptr + block + 1) - first_row).to(tl.int32)
    first = tl.load(query_indptr + query)
    count = (tl.load(query_indptr + query + 1) - first).to(tl.int32)
    plan = (query * blocks + block) * longest
    chunks = tl.zeros([1], tl.int32)
    read = tl.zeros([1], tl.int32)
    for base in range(0, count, TERMS):
        at = base + tl.arange(0, TERMS)
        inside = at < count
        term = tl.load(query_terms + first + at, mask=inside, other=0)
        low = tl.zeros([TERMS], tl.int32)
        high = low + rows
        left = rows
        while left > 0:  # the first row whose term is not below the query's
            searching = low < high
            middle = (low + high) >> 1
            found = tl.load(terms + first_row + middle, mask=inside & searching, other=0)
            low = tl.where(searching & (found < term), middle + 1, low)
            high = tl.where(searching & (found >= term), middle, high)
            left = left >> 1
        hit = inside & (low < rows)
        hit = hit & (tl.load(terms + first_row + low, mask=hit, other=-1) == term)
        start = tl.load(indptr + first_row + low, mask=hit, other=0)
        length = (tl.load(indptr + first_row + low + 1, mask=hit, other=0) - start).to(tl.int32)
        cut = (length + (CHUNK - 1)) // CHUNK
        tl.store(starts + plan + at, start, mask=inside)
        tl.store(lengths + plan + at, length, mask=inside)
        tl.store(ends + plan + at, chunks + tl.cumsum(cut, 0), mask=inside)
        chunks += tl.sum(cut, 0)
        read += tl.sum(length, 0)
    tl.atomic_add(postings + query + tl.arange(0, 1), read.to(tl.int64), sem="relaxed")


@jit
def score_kernel(  # type: ignore[no-untyped-def]
    starts, lengths, ends, query_indptr, query_impacts, locals_, impacts, alive,
    scores, tiles, matched, blocks, longest, alive_stride,
    BLOCK_SIZE: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr, TERMS: tl.constexpr,
    ROWS: tl.constexpr, HAS_ALIVE: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Program (query, block): zero its scores, add chunk by chunk with global atomics, then read
    them back once.

    No other program touches these scores, so the barriers order everything; the read goes past the
    first-level cache, which atomics do not update.
    """
    query, block = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    sums = scores + (query * blocks + block) * WIDTH
    for base in range(0, WIDTH, TILE):
        tl.store(sums + base + tl.arange(0, TILE), tl.zeros([TILE], tl.int32))
    first = tl.load(query_indptr + query)
    terms = (tl.load(query_indptr + query + 1) - first).to(tl.int32)
    plan = (query * blocks + block) * longest
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
        start = tl.load(starts + plan + owner, mask=active, other=0) + skip
        weight = tl.load(query_impacts + first + owner, mask=active, other=0)
        column = tl.arange(0, CHUNK)[None, :]
        live = active[:, None] & (column < (length - skip)[:, None])
        place = tl.load((locals_ + start)[:, None] + column, mask=live, other=0).to(tl.int32)
        value = tl.load((impacts + start)[:, None] + column, mask=live, other=0).to(tl.int32)
        tl.atomic_add(sums + place, value * weight[:, None], mask=live, sem="relaxed")
    tl.debug_barrier()
    count = tl.zeros([1], tl.int32)
    for tile in range(0, WIDTH // TILE):
        place = tile * TILE + tl.arange(0, TILE)
        score = tl.load(sums + place, cache_modifier=".cg")
        if HAS_ALIVE:
            keep = tl.load(
                alive + query * alive_stride + block * BLOCK_SIZE + place,
                mask=place < BLOCK_SIZE,
                other=0,
            )
            score = tl.where(keep != 0, score, 0)
            tl.store(sums + place, score)
        count += tl.sum((score > 0).to(tl.int32), 0)
        best = tl.max(score, 0).to(tl.int64)
        number = block * (WIDTH // TILE) + tile
        key = tl.where(best > 0, (best << 32) | (LAST - number), 0)
        tl.store(tiles + query * blocks * (WIDTH // TILE) + number, key)
    tl.atomic_add(matched + query + tl.arange(0, 1), count.to(tl.int64), sem="relaxed")


class Plan:
    """The plan's tensors, filled by ``plan_kernel``, which adds the postings it counts to ``read``
    int64 [n].
    """

    def __init__(self, queries: Queries, postings: Postings, read: Tensor) -> None:
        device = postings.device
        shape = (len(queries), postings.blocks, queries.longest)
        self.starts = torch.empty(shape, dtype=torch.int64, device=device)
        self.lengths = torch.empty(shape, dtype=torch.int32, device=device)
        self.ends = torch.empty(shape, dtype=torch.int32, device=device)
        plan_kernel[(len(queries), postings.blocks)](
            postings.block_term_indptr, postings.terms, postings.indptr, queries.indptr, queries.terms,
            self.starts, self.lengths, self.ends, read, postings.blocks, queries.longest,
            CHUNK=CHUNK, TERMS=TERMS, num_warps=2,
        )  # fmt: skip


def empty_scores(queries: Queries, postings: Postings) -> BlockScores:
    """Room for the answer: scores and tiles, which a kernel fills whole, and counts at 0, to which
    kernels add.
    """
    n, blocks, width = len(queries), postings.blocks, postings.width
    matched, read = torch.zeros((2, n), dtype=torch.int64, device=postings.device)
    return BlockScores(
        torch.empty((n, blocks, width), dtype=torch.int32, device=postings.device),
        torch.empty((n, blocks * (width // TILE)), dtype=torch.int64, device=postings.device),
        matched,
        read,
        postings.block_size,
    )


def alive_stride(alive: Tensor | None) -> int:
    """Bytes from one query's ``alive`` to the next one's; 0 where they share it."""
    return 0 if alive is None or alive.ndim == 1 else alive.shape[1]


def score_blocks(queries: Queries, postings: Postings, alive: Tensor | None) -> BlockScores:
    """The portable path of ``score_blocks.score_blocks``."""
    found = empty_scores(queries, postings)
    plan = Plan(queries, postings, found.postings)
    score_kernel[(len(queries), postings.blocks)](
        plan.starts, plan.lengths, plan.ends, queries.indptr, queries.impacts, postings.locals, postings.impacts,
        found.matched if alive is None else alive,
        found.scores, found.tiles, found.matched, postings.blocks, queries.longest, alive_stride(alive),
        BLOCK_SIZE=postings.block_size, WIDTH=postings.width, TILE=TILE, CHUNK=CHUNK, TERMS=TERMS, ROWS=ROWS,
        HAS_ALIVE=alive is not None, LAST=LAST_ARRIVAL, num_warps=WARPS,
    )  # fmt: skip
    return found


# Types of the arguments that the portable and the fast kernel share.
SCORE_SIGNATURE = {
    "starts": "*i64", "lengths": "*i32", "ends": "*i32", "query_indptr": "*i64", "query_impacts": "*i32",
    "locals_": "*u16", "impacts": "*u8", "alive": "*u8", "scores": "*i32", "tiles": "*i64", "matched": "*i64",
    "blocks": "i32", "longest": "i32", "alive_stride": "i64",
}  # fmt: skip
ALIGNED = (
    "starts",
    "lengths",
    "ends",
    "locals_",
    "impacts",
    "alive",
    "scores",
    "tiles",
    "longest",
    "alive_stride",
)
AOT = [
    AotCase(
        name="score/plan",
        kernel=plan_kernel,
        signature={
            "block_term_indptr": "*i64", "terms": "*i32", "indptr": "*i64", "query_indptr": "*i64", "query_terms": "*i32",
            "starts": "*i64", "lengths": "*i32", "ends": "*i32", "postings": "*i64", "blocks": "i32", "longest": "i32",
            "CHUNK": "constexpr", "TERMS": "constexpr",
        },
        constexprs={"CHUNK": CHUNK, "TERMS": TERMS},
        num_warps=2,
        aligned=("starts", "lengths", "ends", "longest"),
    ),
    *(
        AotCase(
            name=f"score/portable/{'alive' if has_alive else 'all'}",
            kernel=score_kernel,
            signature=SCORE_SIGNATURE
            | dict.fromkeys(("BLOCK_SIZE", "WIDTH", "TILE", "CHUNK", "TERMS", "ROWS", "HAS_ALIVE", "LAST"), "constexpr"),
            constexprs={
                "BLOCK_SIZE": MAX_BLOCK_DOCUMENTS, "WIDTH": MAX_BLOCK_DOCUMENTS, "TILE": TILE, "CHUNK": CHUNK, "TERMS": TERMS,
                "ROWS": ROWS, "HAS_ALIVE": has_alive, "LAST": LAST_ARRIVAL,
            },
            num_warps=WARPS,
            aligned=ALIGNED,
            expects={80: ("RED.E.ADD",), 0: ("REDG.E.ADD",)},
        )
        for has_alive in (False, True)
    ),
]  # fmt: skip
