"""The fast path of ``score_blocks``: a block's 2^14 sums stay in shared memory, 64 KB of it, three
programs to a Hopper multiprocessor. Needs Gluon (Triton 3.6 or later). No interpreter knows it;
tests run its PTX on a machine of their own.

A program (query, block) does what the portable kernel does. Postings go in by ``red.shared.add``:
additions commute, so terms need no barrier between them, every warp takes whatever chunk is next,
and loads run ahead of sums. Two barriers remain: after the zeros, before the first addition; after
the last addition, before the sums are read.

Gluon has shared-memory atomics of its own (``atomic_scatter_add``) only from Triton 3.8 on. Until
then the instruction is written inline. It finds the sums at the start of the program's dynamic
shared memory, which holds if nothing else is kept there: the kernel's reductions therefore stay
inside a warp, and ``score_blocks`` refuses to give an answer if the compiler took more than the
sums need.

What limits it, counted for 40 M postings of 43 terms in 540 blocks on 132 multiprocessors, at 1.9
GHz; nothing here was measured. Each multiprocessor takes 303 k postings, 9.5 k warp-wide additions.
Bank conflicts make some 3.4 passes of each, 32 k in all: 17 us at one a clock, 34 us at one in two.
Instructions: some 175 per chunk, 1.4 k chunks, four issued a clock: 31 us. Reading the postings:
121 MB, 28 us at 4.3 TB/s. The three overlap, so 35 to 60 us are expected for one query (540
programs are 4.1 per multiprocessor, so one with 5 ends last), to which writing 35 MB of scores adds
at most 8 us.
"""

from __future__ import annotations

from torch import Tensor

from ...core.errors import UnavailableError
from ...core.ranking_key import LAST_ARRIVAL
from ..runtime.launch import INTERPRETED, AotCase, capability
from .api import CHUNK, TILE, BlockScores, Postings, Queries
from .reference import MAX_BLOCK_DOCUMENTS
from .triton import ALIGNED, SCORE_SIGNATURE, TERMS, Plan, alive_stride, empty_scores

try:
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl

    barrier = (
        gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier
    )  # its name until Triton 3.6
except ImportError:
    gluon = gl = barrier = None

WARPS = 16
SHARED_BYTES = 4 * MAX_BLOCK_DOCUMENTS
jit = (lambda function: function) if gluon is None else gluon.jit


@jit
def add_shared(place, value):  # type: ignore[no-untyped-def]
    """``sums[place] += value``, sums being int32 at the start of shared memory."""
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
def score_kernel(  # type: ignore[no-untyped-def]
    starts, lengths, ends, query_indptr, query_impacts, locals_, impacts, alive,
    scores, tiles, matched, blocks, longest, alive_stride,
    WIDTH: gl.constexpr, TILE: gl.constexpr, CHUNK: gl.constexpr, TERMS: gl.constexpr,
    HAS_ALIVE: gl.constexpr, LAST: gl.constexpr,
):  # fmt: skip
    """Program (query, block). Queries run fastest, so that those of a batch find a block's postings
    in the L2 cache.
    """
    WARPS: gl.constexpr = gl.num_warps()
    PARTS: gl.constexpr = WIDTH // (WARPS * TILE)
    # A row of either belongs to one warp: of chunks, neighbouring lanes hold neighbouring postings;
    # of tiles, 16 bytes.
    chunk_layout: gl.constexpr = gl.BlockedLayout([1, 1], [1, 32], [WARPS, 1], [1, 0])
    tile_layout: gl.constexpr = gl.BlockedLayout([1, 4], [1, 32], [WARPS, 1], [1, 0])
    warp: gl.constexpr = gl.SliceLayout(1, chunk_layout)
    tile_warp: gl.constexpr = gl.SliceLayout(1, tile_layout)

    query, block = gl.program_id(0).to(gl.int64), gl.program_id(1).to(gl.int64)
    sums = gl.allocate_shared_memory(
        gl.int32, [PARTS, WARPS, TILE], gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    )
    for part in gl.static_range(PARTS):
        sums.index(part).store(gl.zeros([WARPS, TILE], gl.int32, tile_layout))
    first = gl.load(query_indptr + query)
    terms = (gl.load(query_indptr + query + 1) - first).to(gl.int32)
    plan = (query * blocks + block) * longest
    chunks = gl.load(ends + plan + terms - 1, mask=terms > 0, other=0)
    barrier()
    for base in range(0, chunks, WARPS):
        chunk = base + gl.arange(0, WARPS, layout=warp)
        active = chunk < chunks
        passed = gl.zeros([WARPS, TERMS], gl.int32, chunk_layout)
        for i in range(0, terms, TERMS):  # the first term whose chunks end above this one
            term = i + gl.arange(0, TERMS, layout=gl.SliceLayout(0, chunk_layout))
            end = gl.load(ends + plan + term, mask=term < terms, other=2**31 - 1)
            passed += (end[None, :] <= chunk[:, None]).to(gl.int32)
        owner = gl.sum(passed, 1)
        length = gl.load(lengths + plan + owner, mask=active, other=0)
        end = gl.load(ends + plan + owner, mask=active, other=0)
        skip = (chunk - end + (length + (CHUNK - 1)) // CHUNK) * CHUNK
        start = gl.load(starts + plan + owner, mask=active, other=0) + skip
        weight = gl.load(query_impacts + first + owner, mask=active, other=0)
        column = gl.arange(0, CHUNK, layout=gl.SliceLayout(0, chunk_layout))[None, :]
        live = active[:, None] & (column < (length - skip)[:, None])
        # Idle lanes add 0, each in a bank of its own: a predicate would cost every addition a
        # branch.
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
        if HAS_ALIVE:
            keep = gl.load(alive + (query * alive_stride + block * WIDTH) + place)
            score = gl.where(keep != 0, score, 0)
        gl.store(scores + (query * blocks + block) * WIDTH + place, score)
        count += gl.sum((score > 0).to(gl.int32), 1)
        best = gl.max(score, 1).to(gl.int64)
        number = block * (WIDTH // TILE) + tile
        key = gl.where(best > 0, (best << 32) | (LAST - number), 0)
        gl.store(tiles + query * blocks * (WIDTH // TILE) + number, key)
    gl.atomic_add(
        matched + query + gl.zeros([WARPS], gl.int32, tile_warp), count.to(gl.int64), sem="relaxed"
    )


def fits(postings: Postings) -> bool:
    """Whether this path can take these postings: full-size blocks, Gluon there, compute capability
    8.0 or above.
    """
    return (
        gluon is not None
        and not INTERPRETED
        and postings.block_size == MAX_BLOCK_DOCUMENTS
        and capability(postings.terms) >= 80
    )


def score_blocks(queries: Queries, postings: Postings, alive: Tensor | None) -> BlockScores:
    """The shared path of ``score_blocks.score_blocks``.

    Raises:
        UnavailableError: this Triton keeps something beside the sums in shared memory.
    """
    found = empty_scores(queries, postings)
    plan = Plan(queries, postings, found.postings)
    compiled = score_kernel[(len(queries), postings.blocks)](
        plan.starts, plan.lengths, plan.ends, queries.indptr, queries.impacts, postings.locals, postings.impacts,
        found.matched if alive is None else alive,
        found.scores, found.tiles, found.matched, postings.blocks, queries.longest, alive_stride(alive),
        WIDTH=postings.width, TILE=TILE, CHUNK=CHUNK, TERMS=TERMS, HAS_ALIVE=alive is not None, LAST=LAST_ARRIVAL,
        num_warps=WARPS,
    )  # fmt: skip
    if compiled.metadata.shared != SHARED_BYTES:
        raise UnavailableError(
            f"the shared-memory scorer takes {compiled.metadata.shared} bytes, must be "
            f"{SHARED_BYTES}: this version of "
            "Triton does not suit it; search with path='portable'"
        )
    return found


AOT = [
    AotCase(
        name=f"score/shared/{'alive' if has_alive else 'all'}",
        kernel=score_kernel,
        signature=SCORE_SIGNATURE | dict.fromkeys(("WIDTH", "TILE", "CHUNK", "TERMS", "HAS_ALIVE", "LAST"), "constexpr"),
        constexprs={
            "WIDTH": MAX_BLOCK_DOCUMENTS, "TILE": TILE, "CHUNK": CHUNK, "TERMS": TERMS,
            "HAS_ALIVE": has_alive, "LAST": LAST_ARRIVAL,
        },
        num_warps=WARPS,
        aligned=ALIGNED,
        expects={0: ("ATOMS.ADD", "LDS.128", "STS.128", "STG.E.128")},
    )
    for has_alive in (False, True)
]  # fmt: skip
