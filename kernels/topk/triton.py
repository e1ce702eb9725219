"""Keep the largest weights by a radix select in Triton: two reads of a row, one sort.

1. ``_histogram_kernel`` reads ``[B, V]``, a chunk of one row per program, and counts the positive
   weights of each row in 2,048 bins. Bits of floats > 0 ascend with the value; a bin holds the
   floats with the same leading 16 bits, 128 bins per power of two, from 2^-11 to 2^5. Smaller and
   larger values share the first and the last bin.
2. ``_collect_kernel`` finds the bin of the k-th largest weight, reads the row again (from the L2
   cache, if it fits there) and packs the terms at or above that bin, in any order.
3. ``_best_kernel``, one program per row, sorts them by the pair (bits of the weight, inverted term)
   in one int64 and keeps the first k. Where more remain than one sort takes (many equal weights),
   it merges further blocks into the best so far.

No two pairs are equal, so the result is exact and the same on every run. NaN and infinite weights
are excluded and counted.

Count. Reading is 4 B V bytes: 16.4 MB for 32 rows of 128,256, 5 us at 3.35 TB/s; the second read
comes from L2. Beside that: 8 KB of histogram per row, read by every chunk of the second pass (8 MB
from L2 for 32 rows), and some k + 50 packed terms per row. The method follows the radix select of
FlashInfer and RadiK (arXiv 2501.14336).
"""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from ..runtime.aot import AotCase
from ..runtime.launch import jit, on_device, tl, triton
from .types import Top

# Bins of the histogram of a row; the last 16 bits of a float do not count, and the first bin begins
# at 2^-11: (127 - 11) << 7.
BINS = 2048
FIRST_BIN = 14_848
# Weights that a program reads at a time.
CHUNK = 4096
# Pairs that are sorted together, at least: fewer save nothing.
LEAST_SORTED = 256
# Counts per row: weights packed, weights > 0, weights that are not finite.
COUNTERS = 4


@jit
def _histogram_kernel(  # type: ignore[no-untyped-def]
    bits,  # int32 view of the weights [B, V]
    histograms,  # int32 [B, BINS], zeros
    counters,  # int32 [B, COUNTERS], zeros
    V,
    stride,
    CHUNK: tl.constexpr,
    BINS: tl.constexpr,
    FIRST_BIN: tl.constexpr,
    COUNTERS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    v = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    found = tl.load(bits + row * stride + v, mask=v < V, other=0)
    # As integers, -0.0 and everything below are negative; bits from infinity on are not finite.
    positive = (found > 0) & (found < 0x7F800000)
    strange = (found & 0x7FFFFFFF) >= 0x7F800000
    count = tl.sum(positive.to(tl.int32), 0)
    if count > 0:
        tl.atomic_add(counters + COUNTERS * row + 1, count, sem="relaxed")
        bin = tl.minimum(tl.maximum((found >> 16) - FIRST_BIN, 0), BINS - 1)
        filled = tl.histogram(bin, BINS, mask=positive)
        at = histograms + row * BINS + tl.arange(0, BINS)
        tl.atomic_add(at, filled, mask=filled > 0, sem="relaxed")
    wrong = tl.sum(strange.to(tl.int32), 0)
    if wrong > 0:
        tl.atomic_add(counters + COUNTERS * row + 2, wrong, sem="relaxed")


@jit(varying=("K",))
def _collect_kernel(  # type: ignore[no-untyped-def]
    bits,
    histograms,
    packed,  # int32 [B, V], terms
    counters,
    V,
    K,
    stride,
    CHUNK: tl.constexpr,
    BINS: tl.constexpr,
    FIRST_BIN: tl.constexpr,
    COUNTERS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    filled = tl.load(histograms + row * BINS + tl.arange(0, BINS))
    reached = tl.cumsum(filled, 0, reverse=True)
    # The last bin that K weights reach; the first one where fewer are positive.
    bin = tl.sum((reached >= K).to(tl.int32), 0) - 1
    least = tl.where(bin > 0, (bin + FIRST_BIN) << 16, 1)
    v = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    found = tl.load(bits + row * stride + v, mask=v < V, other=0)
    kept = (found >= least) & (found < 0x7F800000)
    count = tl.sum(kept.to(tl.int32), 0)
    if count > 0:
        start = tl.atomic_add(counters + COUNTERS * row, count, sem="relaxed")
        at = packed + row * V + start + tl.cumsum(kept.to(tl.int32), 0) - 1
        tl.store(at, v, mask=kept)


@jit
def _merge(best, keys):  # type: ignore[no-untyped-def]
    """Return the larger half of two blocks of pairs, descending; ``best`` descends already."""
    if tl.max(keys, 0) > tl.min(best, 0):
        # Of a descending and an ascending block, the greater of each place make the greater half.
        best = tl.bitonic_merge(tl.maximum(best, tl.sort(keys)), descending=True)
    return best


@jit(varying=("K", "scale", "maximum"))
def _best_kernel(  # type: ignore[no-untyped-def]
    bits,
    packed,
    counters,
    terms,  # int32 [B, K]
    values,  # int32 view of float32 [B, K]
    impacts,  # int32 [B, K], with IMPACTS
    counts,  # int32 [B]
    clipped,  # int32 [B], with IMPACTS
    V,
    K,
    stride,
    scale: tl.int64,  # bits of a float64
    maximum,
    SORTED: tl.constexpr,
    IMPACTS: tl.constexpr,
    COUNTERS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    bits += row * stride
    packed += row * V
    j = tl.arange(0, SORTED)
    best = tl.zeros((SORTED,), tl.int64)
    count = tl.load(counters + COUNTERS * row)
    for start in range(0, count, SORTED):
        real = start + j < count
        term = tl.load(packed + start + j, mask=real, other=0)
        value = tl.load(bits + term, mask=real, other=0)
        pair = (value.to(tl.int64) << 32) | (0x7FFFFFFF - term)
        best = _merge(best, tl.where(real, pair, 0))
    here = (best != 0) & (j < K)
    value = tl.where(here, best >> 32, 0).to(tl.int32)
    term = tl.where(here, 0x7FFFFFFF - (best & 0x7FFFFFFF), -1).to(tl.int32)
    place = row * K + j
    tl.store(terms + place, term, mask=j < K)
    tl.store(values + place, value, mask=j < K)
    tl.store(counts + row, tl.sum(here.to(tl.int32), 0))
    if IMPACTS:
        step = tl.full((SORTED,), 0, tl.int64) + scale
        # Adding 1.5 * 2^52 rounds a float64 to the nearest integer, ties to even.
        magic = tl.full((SORTED,), 6755399441055744.0, tl.float64)
        exact = value.to(tl.float32, bitcast=True).to(tl.float64) / step.to(
            tl.float64, bitcast=True
        )
        exact = (tl.minimum(exact, maximum + 1.0) + magic) - magic
        impact = tl.minimum(tl.maximum(exact.to(tl.int32), 1), maximum)
        tl.store(impacts + place, tl.where(here, impact, 0), mask=j < K)
        tl.store(clipped + row, tl.sum((here & (exact > maximum)).to(tl.int32), 0))


def topk_triton(
    weights: Tensor, k: int, scale: float | None = None, maximum: int = 1, *, chunk: int = CHUNK
) -> Top:
    """Compute :func:`.api.topk` by the Triton kernels; arguments are checked already."""
    rows, V = weights.shape
    k = min(k, V)
    if weights.stride(1) != 1:
        weights = weights.contiguous()

    def integers(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=weights.device)

    counters = torch.zeros(rows, COUNTERS, dtype=torch.int32, device=weights.device)
    terms, values, counts = integers(rows, k), integers(rows, k), integers(rows)
    impacts, clipped = (
        (torch.zeros_like(terms), torch.zeros_like(counts))
        if scale is None
        else (integers(rows, k), integers(rows))
    )
    bits, stride = weights.view(torch.int32), weights.stride(0)
    if rows and V:
        histograms = torch.zeros(rows, BINS, dtype=torch.int32, device=weights.device)
        packed = integers(rows, V)
        grid = (rows, triton.cdiv(V, chunk))
        shape = {"CHUNK": chunk, "BINS": BINS, "FIRST_BIN": FIRST_BIN, "COUNTERS": COUNTERS}
        with on_device(weights):
            _histogram_kernel[grid](bits, histograms, counters, V, stride, **shape, num_warps=8)
            _collect_kernel[grid](
                bits, histograms, packed, counters, V, k, stride, **shape, num_warps=8
            )
            _best_kernel[(rows,)](
                bits, packed, counters, terms, values, impacts, counts, clipped,
                V, k, stride, _float_bits(1.0 if scale is None else scale), maximum,
                SORTED=max(LEAST_SORTED, triton.next_power_of_2(k)), IMPACTS=scale is not None,
                COUNTERS=COUNTERS, num_warps=4,
            )  # fmt: skip
    else:
        counts.zero_()
        clipped.zero_()
    return Top(
        terms,
        values.view(torch.float32),
        impacts,
        counts,
        counters[:, 1],
        clipped,
        counters[:, 2],
    )


def _float_bits(value: float) -> int:
    """Return the bits of a float64: Triton passes Python floats as float32."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


_SHAPE = {"CHUNK": CHUNK, "BINS": BINS, "FIRST_BIN": FIRST_BIN, "COUNTERS": COUNTERS}


def _row_case(name: str, kernel: object, pointers: tuple[str, ...], *varying: str) -> AotCase:
    integers = ("V", *varying, "stride")
    return AotCase(
        name=f"topk/{name}",
        kernel=kernel,
        signature={
            **dict.fromkeys(pointers, "*i32"),
            **dict.fromkeys(integers, "i32"),
            **dict.fromkeys(_SHAPE, "constexpr"),
        },
        constexprs=_SHAPE,
        num_warps=8,
        aligned=(*pointers, "V", "stride"),
        expects={80: ("LDG.E.128", "ATOMS") if name == "histogram" else ("LDG.E.128",)},
    )


def _best_case(ordered: int) -> AotCase:
    pointers = (
        "bits", "packed", "counters", "terms", "values", "impacts", "counts", "clipped",
    )  # fmt: skip
    constexprs = {"SORTED": ordered, "IMPACTS": True, "COUNTERS": COUNTERS}
    return AotCase(
        name=f"topk/best/{ordered}",
        kernel=_best_kernel,
        signature={
            **dict.fromkeys(pointers, "*i32"),
            **dict.fromkeys(("V", "K", "stride"), "i32"),
            "scale": "i64",
            "maximum": "i32",
            **dict.fromkeys(constexprs, "constexpr"),
        },
        constexprs=constexprs,
        aligned=(*pointers, "V", "stride"),
    )


AOT: list[AotCase] = [
    _row_case("histogram", _histogram_kernel, ("bits", "histograms", "counters")),
    _row_case("collect", _collect_kernel, ("bits", "histograms", "packed", "counters"), "K"),
    *(_best_case(ordered) for ordered in (256, 512, 1024)),
]
