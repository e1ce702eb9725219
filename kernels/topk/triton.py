"""Keep the largest weights in two Triton kernels.

The first reads ``[B, V]`` once, a chunk of one row per program, and packs the terms of positive
weights together in any order; of a chunk with more of them than can win it packs only the best. The
second, one program per row, keeps the best in registers and merges the packed ones into them, a
block at a time. It compares the pair (bits of the weight, inverted term) in one int64: for floats >
0 bits ascend with the value, and no two pairs are equal, so the result is exact and the same on
every run. Weights that are not > 0, NaN among them, are excluded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..runtime.aot import AotCase
from ..runtime.launch import jit, tl, triton
from .types import Top


@jit
def _merge(best, keys):  # type: ignore[no-untyped-def]
    """Return the larger half of two blocks of pairs, descending; ``best`` descends already."""
    if tl.max(keys, 0) > tl.min(best, 0):
        # Of a descending and an ascending block, the greater of each place make the greater half.
        best = tl.bitonic_merge(tl.maximum(best, tl.sort(keys)), descending=True)
    return best


@jit
def _pairs(bits, terms, real):  # type: ignore[no-untyped-def]
    # Bits above those of infinity are NaN; as integers, -0.0 and all below it are negative.
    real = real & (bits > 0) & (bits <= 0x7F800000)
    return tl.where(real, (bits.to(tl.int64) << 32) | (0x7FFFFFFF - terms), 0)


@jit
def _pack_kernel(  # type: ignore[no-untyped-def]
    bits,  # int32 view of the weights [B, V]
    packed,  # int32 [B, V], terms
    counters,  # int32 [B, 2], zeros: terms packed, weights > 0
    V,
    stride,
    CHUNK: tl.constexpr,
    BEST: tl.constexpr,  # terms that can win, a power of two, at most CHUNK
):
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * CHUNK
    bits += row * stride
    packed += row * V
    v = first + tl.arange(0, CHUNK)
    found = tl.load(bits + v, mask=v < V, other=0)
    positive = (found > 0) & (found <= 0x7F800000)
    count = tl.sum(positive.to(tl.int32), 0)
    if count > 0:
        tl.atomic_add(counters + 2 * row + 1, count, sem="relaxed")
        if count <= BEST:
            start = tl.atomic_add(counters + 2 * row, count, sem="relaxed")
            tl.store(packed + start + tl.cumsum(positive.to(tl.int32), 0) - 1, v, mask=positive)
        else:
            j = tl.arange(0, BEST)
            best = tl.zeros((BEST,), tl.int64)
            for v0 in range(first, tl.minimum(first + CHUNK, V), BEST):
                real = v0 + j < V
                best = _merge(
                    best, _pairs(tl.load(bits + v0 + j, mask=real, other=0), v0 + j, real)
                )
            start = tl.atomic_add(counters + 2 * row, BEST, sem="relaxed")
            tl.store(packed + start + j, 0x7FFFFFFF - (best & 0x7FFFFFFF).to(tl.int32))


@jit
def _best_kernel(  # type: ignore[no-untyped-def]
    bits,  # as in the first kernel
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
    BEST: tl.constexpr,
    IMPACTS: tl.constexpr,
    SCALE: tl.constexpr,
    MAXIMUM: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    bits += row * stride
    packed += row * V
    j = tl.arange(0, BEST)
    best = tl.zeros((BEST,), tl.int64)
    count = tl.load(counters + 2 * row)
    for start in range(0, count, BEST):
        real = start + j < count
        term = tl.load(packed + start + j, mask=real, other=0)
        best = _merge(best, _pairs(tl.load(bits + term, mask=real, other=0), term, real))
    here = (best != 0) & (j < K)
    value = tl.where(here, best >> 32, 0).to(tl.int32)
    place = row * K + j
    tl.store(
        terms + place, tl.where(here, 0x7FFFFFFF - (best & 0x7FFFFFFF), -1).to(tl.int32), mask=j < K
    )
    tl.store(values + place, value, mask=j < K)
    tl.store(counts + row, tl.sum(here.to(tl.int32), 0))
    if IMPACTS:
        step = tl.full((BEST,), SCALE, tl.float64)
        # Adding 1.5 * 2^52 rounds a float64 to the nearest integer, ties to even.
        magic = tl.full((BEST,), 6755399441055744.0, tl.float64)
        exact = value.to(tl.float32, bitcast=True).to(tl.float64) / step
        exact = (tl.minimum(exact, MAXIMUM + 1.0) + magic) - magic
        impact = tl.minimum(tl.maximum(exact.to(tl.int32), 1), MAXIMUM)
        tl.store(impacts + place, tl.where(here, impact, 0), mask=j < K)
        tl.store(clipped + row, tl.sum((here & (exact > MAXIMUM)).to(tl.int32), 0))


# Weights that a program of the first kernel reads.
_CHUNK = 4096
# Pairs that are sorted together at least: a row of a few hundred positive weights is one block.
_LEAST = 256


def topk_triton(
    weights: Tensor, k: int, scale: float | None = None, maximum: int = 1, *, chunk: int = _CHUNK
) -> Top:
    """Compute :func:`.api.topk` by the Triton kernels; arguments are checked already."""
    rows, V = weights.shape
    k = min(k, V)
    if weights.stride(1) != 1:
        weights = weights.contiguous()
    device = weights.device

    def integers(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=device)

    counters = torch.zeros(rows, 2, dtype=torch.int32, device=device)
    terms, values, counts = integers(rows, k), integers(rows, k), integers(rows)
    with_impacts = scale is not None
    impacts, clipped = (
        (integers(rows, k), integers(rows))
        if with_impacts
        else (torch.zeros_like(terms), torch.zeros_like(counts))
    )
    if rows:
        bits, packed = weights.view(torch.int32), integers(rows, V)
        best = max(_LEAST, triton.next_power_of_2(k))
        chunk = max(chunk, best)
        if V:
            _pack_kernel[(rows, triton.cdiv(V, chunk))](
                bits, packed, counters, V, weights.stride(0), CHUNK=chunk, BEST=best, num_warps=4
            )
        _best_kernel[(rows,)](
            bits,
            packed,
            counters,
            terms,
            values,
            impacts,
            counts,
            clipped,
            V,
            k,
            weights.stride(0),
            BEST=best,
            IMPACTS=with_impacts,
            SCALE=scale if with_impacts else 1.0,
            MAXIMUM=maximum,
            num_warps=4,
        )
    return Top(terms, values.view(torch.float32), impacts, counts, counters[:, 1], clipped)


def _case(kernel: str, best: int) -> AotCase:
    pack = kernel == "pack"
    outputs = () if pack else ("terms", "values", "impacts", "counts", "clipped")
    pointers = ("bits", "packed", "counters", *outputs)
    integers = ("V", "stride") if pack else ("V", "K", "stride")
    constexprs = (
        {"CHUNK": _CHUNK, "BEST": best}
        if pack
        else {"BEST": best, "IMPACTS": True, "SCALE": 0.02, "MAXIMUM": 255}
    )
    return AotCase(
        name=f"topk/{kernel}/{best}",
        kernel=_pack_kernel if pack else _best_kernel,
        signature={
            **dict.fromkeys(pointers, "*i32"),
            **dict.fromkeys(integers, "i32"),
            **dict.fromkeys(constexprs, "constexpr"),
        },
        constexprs=constexprs,
        num_warps=4,
        aligned=(*pointers, "V", "stride"),
    )


AOT: list[AotCase] = [_case(kernel, best) for kernel in ("pack", "best") for best in (256, 1024)]
