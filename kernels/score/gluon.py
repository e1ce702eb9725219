"""Score blocks in Gluon: the 2^14 sums of a block stay in 64 KB of shared memory.

Three programs fit on a Hopper multiprocessor. Gluon comes with Triton 3.6 and later. It has no
interpreter; tests run the compiled PTX on a machine written in Python.

A program (query, block) does what the Triton kernel does. Postings are added by
``red.shared.add``: additions commute, so terms need no barrier between them, every warp takes the
next chunk, and loads run ahead of sums. Two barriers remain: between the zeros and the first
addition, and between the last addition and the read of the sums.

Gluon has its own shared-memory atomics (``atomic_scatter_add``) only from Triton 3.8 on. Until then
the instruction is inline assembly. It finds the sums at the start of the dynamic shared memory of
the program, which holds if nothing else is kept there: the reductions of the kernel therefore stay
inside a warp, and ``score_blocks`` raises an error if the compiler took more than the sums need.

Limits, counted for 40 M postings of 43 terms in 540 blocks on 132 multiprocessors at 1.9 GHz;
nothing here was measured. Each multiprocessor takes 303 k postings, 9.5 k warp-wide additions. Bank
conflicts make some 3.4 passes of each, 32 k in all: 17 us at one a clock, 34 us at one in two.
Instructions: some 175 per chunk, 1.4 k chunks, four issued a clock: 31 us. Reading the postings:
121 MB, 28 us at 4.3 TB/s. The three overlap, so 35 to 60 us are expected for one query (540
programs are 4.1 per multiprocessor, so one with 5 ends last), to which writing 35 MB of scores adds
at most 8 us.

Most of these writes are left out for a batch. A bin that k tiles reach is a safe threshold: k
documents score higher than every document of a tile below it, so that such a tile is never read
again. Every 32nd block looks at the histogram and raises the threshold of its query. Counted for k
= 1,000 among 17,216 tiles: of a batch of 8 or more, which starts the first blocks of all queries
together, a quarter of the tiles are stored, 9 MB per query instead of 35; of one query, three
quarters, because 396 of its 538 programs start at once. The look costs 0.2 % of the instructions.

Not done, because the count says that it cannot pay: to score a tenth of the blocks by a launch of
their own first. Its 54 programs leave 78 of 132 multiprocessors idle for some 6 us, and finding
their k-th best takes three launches more, 3 us; all writes of the others take 7 us. And to append
candidates instead of storing scores: the worst case, all documents, takes 8 bytes each instead of
4, so that the workspace would be larger, or the host would have to wait for the count.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ...core.errors import UnavailableError
from ...core.ranking_key import LAST_ARRIVAL
from ..runtime.aot import AotCase
from ..runtime.launch import INTERPRETED, Support, on_device
from .triton import (
    ALIGNED,
    SCORE_SIGNATURE,
    TERMS,
    VARIANTS,
    VARYING,
    Plan,
    add_columns,
    empty_scores,
    score_bin,
)
from .triton import supports as triton_supports
from .types import (
    BIN_SHIFT,
    CHUNK_POSTINGS,
    FIRST_BIN,
    MAX_BLOCK_DOCUMENTS,
    SCORE_BINS,
    SLOT_TERMS,
    TILE_DOCUMENTS,
    UNIT_POSTINGS,
    BlockScores,
    Postings,
    Queries,
)

try:
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl

    # thread_barrier is its name until Triton 3.6.
    barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier
except ImportError:
    gluon = gl = barrier = None

WARPS = 16
# Registers per thread, so that three programs fit on a multiprocessor.
REGISTERS = 40
# Blocks after which the bin is raised below which tiles are not stored.
REFRESH = 32
SHARED_BYTES = 4 * MAX_BLOCK_DOCUMENTS


def jit(function: Any, *, varying: tuple[str, ...] = ()) -> Any:
    """Return ``gluon.jit(function)``, or the function unchanged where Gluon is missing."""
    return function if gluon is None else gluon.jit(function, do_not_specialize=varying)


@jit
def add_shared(place, value):  # type: ignore[no-untyped-def]
    """Add ``sums[place] += value``, where sums are int32 at the start of shared memory."""
    gl.inline_asm_elementwise(
        """{
        .reg .b32 address;
        mov.u32 address, global_smem;
        mad.lo.u32 address, $1, 4, address;
        red.shared.add.u32 [address], $2;
        mov.u32 $0, 0;
        }""",
        "=r,r,r",
        [place, value],
        dtype=gl.int32,
        is_pure=False,
        pack=1,
    )


@jit
def bin_reached(counts, k, BINS: gl.constexpr, layout: gl.constexpr):  # type: ignore[no-untyped-def]
    """Return the last bin that k tiles reach, from their counts by bin; 0 if fewer are counted.

    Every warp finds it by itself. Counts only grow, so what it reads may be old: the bin is then
    lower than it could be, and still reached by k tiles.
    """
    WARPS: gl.constexpr = gl.num_warps()
    STEP: gl.constexpr = 128
    row: gl.constexpr = gl.SliceLayout(1, layout)
    lane = gl.arange(0, STEP, layout=gl.SliceLayout(0, layout))[None, :]
    same = gl.zeros([WARPS, STEP], gl.int32, layout)
    above = gl.zeros([WARPS], gl.int32, row)  # tiles in the bins above
    before = gl.zeros([WARPS], gl.int32, row)  # the same, above the step that k tiles reach
    least = gl.zeros([WARPS], gl.int32, row)
    for base in range(BINS - STEP, -STEP, -STEP):
        here = gl.sum(gl.load(counts + base + lane + same), 1)
        reached = (above < k) & (above + here >= k)
        least = gl.where(reached, base, least)
        before = gl.where(reached, above, before)
        above += here
    filled = gl.load(counts + least[:, None] + lane)
    first = least
    for half in gl.static_range(7):
        middle = least + (64 >> half)
        upper = gl.where(first[:, None] + lane >= middle[:, None], filled, 0)
        least = gl.where((above >= k) & (before + gl.sum(upper, 1) >= k), middle, least)
    return least


@partial(jit, varying=(*VARYING, "least", "k", "refresh"))
def score_kernel(  # type: ignore[no-untyped-def]
    starts, lengths, ends, query_indptr, query_impacts, query_rows, locals_, impacts, columns,
    frames, mask, scores, tiles, histogram, matched, blocks, total, dense, slots,
    mask_stride: gl.int64, least, k, refresh,
    WIDTH: gl.constexpr, TILE: gl.constexpr, CHUNK: gl.constexpr, TERMS: gl.constexpr,
    SLOT: gl.constexpr, HAS_MASK: gl.constexpr, UNIT: gl.constexpr,
    DENSE: gl.constexpr, BINS: gl.constexpr, SHIFT: gl.constexpr, FIRST: gl.constexpr,
    LAST: gl.constexpr,
):  # fmt: skip
    """Score (query, block); queries run fastest, so a batch finds the block in the L2 cache.

    Tiles below the bin in ``least[query]`` are not stored; every ``refresh``-th block raises it.
    """
    WARPS: gl.constexpr = gl.num_warps()
    PARTS: gl.constexpr = WIDTH // (WARPS * TILE)
    # A row of either belongs to one warp: of chunks, a lane holds eight postings, of tiles, 16
    # bytes.
    chunk_layout: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [WARPS, 1], [1, 0])
    tile_layout: gl.constexpr = gl.BlockedLayout([1, 4], [1, 32], [WARPS, 1], [1, 0])
    term_layout: gl.constexpr = gl.BlockedLayout([1, 1], [1, 32], [WARPS, 1], [1, 0])
    warp: gl.constexpr = gl.SliceLayout(1, chunk_layout)
    term_warp: gl.constexpr = gl.SliceLayout(1, term_layout)
    tile_warp: gl.constexpr = gl.SliceLayout(1, tile_layout)

    query, block = gl.program_id(0).to(gl.int64), gl.program_id(1).to(gl.int64)
    sums = gl.allocate_shared_memory(
        gl.int32, [PARTS, WARPS, TILE], gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    )
    for part in gl.static_range(PARTS):
        sums.index(part).store(gl.zeros([WARPS, TILE], gl.int32, tile_layout))
    first = gl.load(query_indptr + query)
    terms = (gl.load(query_indptr + query + 1) - first).to(gl.int32)
    plan = (query * blocks + block) * (slots * SLOT)
    chunks = gl.load(ends + plan + terms - 1, mask=terms > 0, other=0)
    barrier()
    for base in range(0, chunks, WARPS):
        chunk = base + gl.arange(0, WARPS, layout=warp)
        active = chunk < chunks
        wanted = base + gl.arange(0, WARPS, layout=term_warp)
        passed = gl.zeros([WARPS, TERMS], gl.int32, term_layout)
        for i in range(0, terms, TERMS):  # the first term whose chunks end above this one
            term = i + gl.arange(0, TERMS, layout=gl.SliceLayout(0, term_layout))
            end = gl.load(ends + plan + term, mask=term < terms, other=2**31 - 1)
            passed += (end[None, :] <= wanted[:, None]).to(gl.int32)
        owner = gl.convert_layout(gl.sum(passed, 1), warp)
        length = gl.load(lengths + plan + owner, mask=active, other=0)
        end = gl.load(ends + plan + owner, mask=active, other=0)
        skip = (chunk - end + (length + (CHUNK - 1)) // CHUNK) * CHUNK
        start = gl.load(starts + plan + owner, mask=active, other=0).to(gl.int64) * UNIT + skip
        weight = gl.load(query_impacts + first + owner, mask=active, other=0)
        column = gl.arange(0, CHUNK, layout=gl.SliceLayout(0, chunk_layout))[None, :]
        # To the end of the gap, whose impacts are 0: the bound is a multiple of the unit, so a
        # lane reads its eight postings at once.
        whole = (length + (UNIT - 1)) // UNIT * UNIT - skip
        live = active[:, None] & (column < whole[:, None])
        # Idle lanes add 0, each in its own bank: a predicate costs every addition a branch.
        place = gl.load(
            (locals_ + start)[:, None] + column, mask=live, other=column.to(gl.uint16)
        ).to(gl.int32)
        value = gl.load((impacts + start)[:, None] + column, mask=live, other=0).to(gl.int32)
        add_shared(place, value * weight[:, None])
    barrier()
    count = gl.zeros([WARPS], gl.int32, tile_warp)
    for part in range(PARTS):
        tile = part * WARPS + gl.arange(0, WARPS, layout=tile_warp)
        place = (
            tile[:, None] * TILE
            + gl.arange(0, TILE, layout=gl.SliceLayout(0, tile_layout))[None, :]
        )
        score = sums.index(part).load(tile_layout)
        if DENSE:
            score = add_columns(
                score, place, columns, query_rows + first, query_impacts + first, terms,
                gl.load(frames + block), total, dense, WIDTH,
            )  # fmt: skip
        if HAS_MASK:
            keep = gl.load(mask + (query * mask_stride + block * WIDTH) + place)
            score = gl.where(keep != 0, score, 0)
        count += gl.sum((score > 0).to(gl.int32), 1)
        best = gl.max(score, 1)
        bin = gl.maximum(score_bin(best, SHIFT, FIRST), 0)
        stored = (k == 0) | ((best > 0) & (bin >= gl.load(least + query)))
        gl.store(scores + (query * blocks + block) * WIDTH + place, score, mask=stored[:, None])
        counter = histogram + query * BINS + bin
        gl.atomic_add(counter, gl.full_like(bin, 1), mask=best > 0, sem="relaxed")
        number = block * (WIDTH // TILE) + tile
        key = gl.where(best > 0, (best.to(gl.int64) << 32) | (LAST - number), 0)
        gl.store(tiles + query * blocks * (WIDTH // TILE) + number, key)
    gl.atomic_add(
        matched + query + gl.zeros([WARPS], gl.int32, tile_warp), count.to(gl.int64), sem="relaxed"
    )
    if (k > 0) & (gl.program_id(1) % refresh == refresh - 1):
        found = bin_reached(histogram + query * BINS, k, BINS, tile_layout)
        gl.atomic_max(least + query + gl.zeros_like(found), found, sem="relaxed")


def supports(postings: Postings) -> Support:
    """Say whether this backend takes these postings: full-size blocks on a GPU, with Gluon."""
    if gluon is None:
        return Support("this Triton has no Gluon; it needs 3.6 or later")
    if INTERPRETED or postings.device.type != "cuda":
        return Support("Gluon kernels run only compiled, on a GPU")
    if postings.block_size != MAX_BLOCK_DOCUMENTS:
        return Support(f"blocks of {postings.block_size} documents; it needs {MAX_BLOCK_DOCUMENTS}")
    return triton_supports(postings)


def score_blocks(queries: Queries, postings: Postings, mask: Tensor | None, k: int) -> BlockScores:
    """Compute :func:`.api.score_blocks` in shared memory.

    Raises:
        UnavailableError: this Triton keeps something beside the sums in shared memory.
    """
    found = empty_scores(queries, postings)
    plan = Plan(queries, postings, found.postings)
    with on_device(postings.rows):
        compiled = score_kernel[(len(queries), postings.blocks)](
            *plan.arguments(queries, postings, mask, found), found.least, k, REFRESH,
            WIDTH=postings.width, TILE=TILE_DOCUMENTS, CHUNK=CHUNK_POSTINGS, TERMS=TERMS,
            SLOT=SLOT_TERMS, HAS_MASK=mask is not None, UNIT=UNIT_POSTINGS,
            DENSE=postings.dense > 0, BINS=SCORE_BINS, SHIFT=BIN_SHIFT, FIRST=FIRST_BIN,
            LAST=LAST_ARRIVAL, num_warps=WARPS, maxnreg=REGISTERS,
        )  # fmt: skip
    if compiled.metadata.shared != SHARED_BYTES:
        raise UnavailableError(
            f"score: the Gluon kernel takes {compiled.metadata.shared} bytes of shared memory, "
            f"must be {SHARED_BYTES}; this Triton does not suit it; use backend='triton'"
        )
    return found


def _score_case(name: str, has_mask: bool, dense: bool) -> AotCase:
    constexprs = {
        "WIDTH": MAX_BLOCK_DOCUMENTS, "TILE": TILE_DOCUMENTS, "CHUNK": CHUNK_POSTINGS,
        "TERMS": TERMS, "SLOT": SLOT_TERMS, "HAS_MASK": has_mask, "UNIT": UNIT_POSTINGS,
        "DENSE": dense, "BINS": SCORE_BINS, "SHIFT": BIN_SHIFT, "FIRST": FIRST_BIN,
        "LAST": LAST_ARRIVAL,
    }  # fmt: skip
    return AotCase(
        name=f"score/gluon/{name}",
        kernel=score_kernel,
        signature=SCORE_SIGNATURE
        | {"least": "*i32", "k": "i32", "refresh": "i32"}
        | dict.fromkeys(constexprs, "constexpr"),
        constexprs=constexprs,
        num_warps=WARPS,
        max_registers=REGISTERS,
        aligned=ALIGNED,
        # Eight local numbers and eight impacts are one load each.
        expects={80: ("ATOMS.ADD", "LDS.128", "STS.128", "STG.E.128", "LDG.E.128", "LDG.E.64")},
    )


AOT = [] if gluon is None else [_score_case(*variant) for variant in VARIANTS]
