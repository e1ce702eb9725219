"""Pick the greatest keys and expand tiles in Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.ranking_key import LAST_ARRIVAL
from ..runtime.aot import AotCase
from ..runtime.launch import jit, on_device, tl, triton
from ..score.triton import score_bin
from ..score.types import (
    BIN_SHIFT,
    FIRST_BIN,
    MAX_BLOCK_DOCUMENTS,
    SCORE_BINS,
    TILE_DOCUMENTS,
    BlockScores,
    Postings,
)

# Keys that a program of the pick reads in one step, and its warps.
KEYS = 2048
WARPS = 16
# Rows of keys are a multiple of so many where possible, so that loads are wide.
KEY_UNIT = 16
# Bits of a key that one pass of the pick decides; nine passes make 63.
DIGIT = 7
# Tile keys that a program filters by the histogram, and its warps.
COLLECTED = 1024
COLLECT_WARPS = 8
# Warps of a program that expands one tile.
TILE_WARPS = 4


@jit(varying=("histogram", "units", "k"))
def collect_kernel(  # type: ignore[no-untyped-def]
    tiles, histogram, kept, counts, units, k,
    UNIT: tl.constexpr, TILES: tl.constexpr, BINS: tl.constexpr, SHIFT: tl.constexpr,
    FIRST: tl.constexpr,
):  # fmt: skip
    """Append the tile keys of a query in the bins that hold its k best tiles."""
    query = tl.program_id(0).to(tl.int64)
    width = units * UNIT
    filled = tl.load(histogram + query * BINS + tl.arange(0, BINS))
    reached = tl.cumsum(filled, 0, reverse=True)
    # The last bin that k tiles reach; the first one where fewer tiles have a hit.
    least = tl.maximum(tl.sum((reached >= k).to(tl.int32), 0) - 1, 0)
    at = tl.program_id(1) * TILES + tl.arange(0, TILES)
    key = tl.load(tiles + query * width + at, mask=at < width, other=0)
    keep = (key > 0) & (score_bin((key >> 32).to(tl.int32), SHIFT, FIRST) >= least)
    count = tl.sum(keep.to(tl.int32), 0)
    if count > 0:
        start = tl.atomic_add(counts + query, count, sem="relaxed")
        place = query * width + start + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(kept + place, key, mask=keep)


@jit(varying=("units", "k"))
def pick_kernel(  # type: ignore[no-untyped-def]
    keys, counts, best, kept, least, units, k,
    UNIT: tl.constexpr, KEYS: tl.constexpr, DIGIT: tl.constexpr,
):  # fmt: skip
    """Find the k-th greatest key of a query by histograms of its digits; keep the best."""
    query = tl.program_id(0).to(tl.int64)
    width = units * UNIT
    keys += query * width
    best += query * k
    count = tl.load(counts + query).to(tl.int32)
    lanes = tl.arange(0, KEYS)
    total = tl.zeros([], tl.int32)
    greatest = tl.zeros([], tl.int64)
    for base in range(0, count, KEYS):
        key = tl.load(keys + base + lanes, mask=base + lanes < count, other=0)
        total += tl.sum((key > 0).to(tl.int32), 0)
        greatest = tl.maximum(greatest, tl.max(key, 0))

    bins = tl.arange(0, 1 << DIGIT)
    prefix = tl.zeros([], tl.int64)
    need = tl.zeros([], tl.int32) + k
    shift = tl.where(total > k, 63 - DIGIT, -DIGIT)
    while (shift > 0) & ((greatest >> tl.maximum(shift, 0)) == 0):
        shift -= DIGIT
    while shift >= 0:
        histogram = tl.zeros([1 << DIGIT], tl.int32)
        for base in range(0, count, KEYS):
            key = tl.load(keys + base + lanes, mask=base + lanes < count, other=0)
            inside = (key > 0) & (((key ^ prefix) >> shift) < (1 << DIGIT))
            digit = ((key >> shift) & ((1 << DIGIT) - 1)).to(tl.int32)
            histogram += tl.histogram(digit, 1 << DIGIT, mask=inside)
        reached = tl.cumsum(histogram, 0, reverse=True)
        digit = tl.sum((reached >= need).to(tl.int32), 0) - 1
        here = tl.sum(tl.where(bins == digit, histogram, 0), 0)
        need -= tl.sum(tl.where(bins == digit, reached - histogram, 0), 0)
        prefix = prefix | (digit.to(tl.int64) << shift)
        # No finer pass where all keys with this digit are wanted.
        shift = tl.where(here == need, -DIGIT, shift - DIGIT)

    floor = tl.maximum(prefix, 1)
    written = tl.zeros([], tl.int32)
    for base in range(0, count, KEYS):
        key = tl.load(keys + base + lanes, mask=base + lanes < count, other=0)
        keep = key >= floor
        tl.store(best + written + tl.cumsum(keep.to(tl.int32), 0) - 1, key, mask=keep)
        written += tl.sum(keep.to(tl.int32), 0)
    for base in range(0, k, KEYS):
        place = base + lanes
        tl.store(best + place, tl.zeros([KEYS], tl.int64), mask=(place >= written) & (place < k))
    tl.store(kept + query, written)
    tl.store(least + query, floor)


@jit(varying=("frames", "slots", "blocks"))
def expand_kernel(  # type: ignore[no-untyped-def]
    tiles, least, scores, arrivals, frames, candidates, counts, slots, blocks,
    WIDTH: tl.constexpr, TILE: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Append the keys of those documents of one picked tile that may be among the best."""
    query, slot = tl.program_id(0).to(tl.int64), tl.program_id(1)
    tile_key = tl.load(tiles + query * slots + slot)
    if tile_key > 0:
        tile = LAST - (tile_key & LAST)
        place = (tile % (WIDTH // TILE)) * TILE + tl.arange(0, TILE)
        score = tl.load(scores + query * blocks * WIDTH + tile * TILE + tl.arange(0, TILE))
        keep = (score > 0) & (score >= (tl.load(least + query) >> 32))
        frame = tl.load(frames + tile // (WIDTH // TILE)).to(tl.int64)
        arrival = tl.load(arrivals + frame * WIDTH + place, mask=keep, other=0).to(tl.int64) & LAST
        start = tl.atomic_add(counts + query, tl.sum(keep.to(tl.int32), 0), sem="relaxed")
        at = query * slots * TILE + start + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(candidates + at, (score.to(tl.int64) << 32) | (LAST - arrival), mask=keep)


def select_keys(keys: Tensor, k: int, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute :func:`.api.select_keys`."""
    n, width = keys.shape
    best = torch.empty((n, k), dtype=torch.int64, device=keys.device)
    kept = torch.empty(n, dtype=torch.int32, device=keys.device)
    least = torch.empty(n, dtype=torch.int64, device=keys.device)
    if n:
        unit = KEY_UNIT if width % KEY_UNIT == 0 else 1
        with on_device(keys):
            pick_kernel[(n,)](
                keys, counts, best, kept, least, width // unit, k,
                UNIT=unit, KEYS=KEYS, DIGIT=DIGIT, num_warps=WARPS,
            )  # fmt: skip
    return best, kept, least


def collect_tiles(scores: BlockScores, k: int) -> tuple[Tensor, Tensor]:
    """Return the keys of some tiles, among them the k greatest, in no order.

    Returns:
        keys int64 [n, tiles], of which the first counts int32 [n] are filled.
    """
    n, width = scores.tiles.shape
    kept = torch.empty_like(scores.tiles)
    counts = torch.zeros(n, dtype=torch.int32, device=kept.device)
    if n and width:
        unit = KEY_UNIT if width % KEY_UNIT == 0 else 1
        with on_device(kept):
            collect_kernel[(n, triton.cdiv(width, COLLECTED))](
                scores.tiles, scores.histogram, kept, counts, width // unit, k,
                UNIT=unit, TILES=COLLECTED, BINS=SCORE_BINS, SHIFT=BIN_SHIFT, FIRST=FIRST_BIN,
                num_warps=COLLECT_WARPS,
            )  # fmt: skip
    return kept, counts


def expand_tiles(
    scores: BlockScores, postings: Postings, tiles: Tensor, least: Tensor
) -> tuple[Tensor, Tensor]:
    """Return keys of the documents in picked tiles that may be among the best, unordered.

    Returns:
        candidates int64 [n, slots * 512], of which the first counts int32 [n] are filled.
    """
    n, blocks, width = scores.scores.shape
    slots = tiles.shape[1]
    candidates = torch.empty((n, slots * TILE_DOCUMENTS), dtype=torch.int64, device=tiles.device)
    counts = torch.zeros(n, dtype=torch.int32, device=tiles.device)
    if n and slots:
        with on_device(tiles):
            expand_kernel[(n, slots)](
                tiles, least, scores.scores, postings.arrivals, postings.frames,
                candidates, counts, slots, blocks,
                WIDTH=width, TILE=TILE_DOCUMENTS, LAST=LAST_ARRIVAL, num_warps=TILE_WARPS,
            )  # fmt: skip
    return candidates, counts


AOT = [
    AotCase(
        name="select/collect",
        kernel=collect_kernel,
        signature={
            "tiles": "*i64", "histogram": "*i32", "kept": "*i64", "counts": "*i32",
            "units": "i32", "k": "i32", "UNIT": "constexpr", "TILES": "constexpr",
            "BINS": "constexpr", "SHIFT": "constexpr", "FIRST": "constexpr",
        },
        constexprs={
            "UNIT": KEY_UNIT, "TILES": COLLECTED, "BINS": SCORE_BINS, "SHIFT": BIN_SHIFT,
            "FIRST": FIRST_BIN,
        },
        num_warps=COLLECT_WARPS,
        aligned=("tiles", "kept", "counts"),
        expects={80: ("LDG.E.128", "ATOMG")},
    ),
    AotCase(
        name="select/pick",
        kernel=pick_kernel,
        signature={
            "keys": "*i64", "counts": "*i32", "best": "*i64", "kept": "*i32", "least": "*i64",
            "units": "i32", "k": "i32",
            "UNIT": "constexpr", "KEYS": "constexpr", "DIGIT": "constexpr",
        },
        constexprs={"UNIT": KEY_UNIT, "KEYS": KEYS, "DIGIT": DIGIT},
        num_warps=WARPS,
        aligned=("keys", "counts", "best", "kept", "least"),
        expects={80: ("ATOMS", "LDG.E.64")},
    ),
    AotCase(
        name="select/expand",
        kernel=expand_kernel,
        signature={
            "tiles": "*i64", "least": "*i64", "scores": "*i32", "arrivals": "*i32",
            "frames": "*i32", "candidates": "*i64", "counts": "*i32", "slots": "i32",
            "blocks": "i32",
            "WIDTH": "constexpr", "TILE": "constexpr", "LAST": "constexpr",
        },
        constexprs={
            "WIDTH": MAX_BLOCK_DOCUMENTS, "TILE": TILE_DOCUMENTS, "LAST": LAST_ARRIVAL,
        },
        num_warps=TILE_WARPS,
        aligned=("tiles", "least", "scores", "arrivals", "candidates", "counts"),
        expects={80: ("ATOMG", "LDG.E.128")},
    ),
]  # fmt: skip
