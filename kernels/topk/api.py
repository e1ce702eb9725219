"""topk: the largest weights of each row as a sparse vector, ties to the smaller term, and their
impacts in the same pass.

    impact = clip(rint(weight / scale), 1, maximum), computed in float64, ties to even; what is
    above maximum is counted

On CUDA two kernels. The first reads ``[B, V]`` once, a chunk of one row per program, and packs the
terms of positive weights side by side, whatever the order of programs; of a chunk with more of them
than can win it packs only the best. The second, one program per row, keeps the best in registers
and merges the packed ones into them, a block at a time. It compares the pair (bits of the weight,
inverted term) in one int64: for floats > 0 bits ascend with the value, and since no two pairs are
equal the result is exact and the same on every run. Weights that are not > 0, NaN among them, are
left out.

Count: reading is 4 B V bytes (33 MB for 64 rows of 128,256; 7.6 µs at 4.3 TB/s), and what
learned-sparse rows leave, a few hundred terms each, is nothing beside it: under 1 % more bytes,
then one or two blocks to merge. Rows whose weights are all positive cost a sort of most blocks of
the row, spread over its chunks, and stay exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.vectors import MAX_QUERY_IMPACT
from ..runtime.launch import AotCase, jit, tl, triton, use_triton
from .impacts import quantize

MAX_K = 1024
MAX_V = 262_144


@dataclass(frozen=True)
class Top:
    """The largest weights of n rows, K = min(k, V) places each.

    Attributes:
        terms: int32 [n, K], by descending weight, ties by ascending term; -1 where there is none.
        weights: float32 [n, K], 0 where there is none.
        impacts: int32 [n, K], 1 to the maximum, 0 where there is none; all 0 where no scale was
            given.
        counts: int32 [n], entries that are there.
        positive: int32 [n], weights > 0 of the whole row; ``positive - counts`` were cut by k.
        clipped: int32 [n], entries whose impact was above the maximum and was cut to it.
    """

    terms: Tensor
    weights: Tensor
    impacts: Tensor
    counts: Tensor
    positive: Tensor
    clipped: Tensor


def topk(
    weights: Tensor, k: int, *, scale: float | None = None, maximum: int = MAX_QUERY_IMPACT
) -> Top:
    """Pick each row's ``k`` largest positive weights.

    Args:
        weights: float32 [B, V], V up to 262,144.
        k: 1 to 1,024.
        scale: weight of one impact step, > 0; None for no impacts.
        maximum: greatest impact, 1 to 4,095.

    Raises:
        ValueError: an argument out of range, or another dtype.
    """
    if weights.ndim != 2 or weights.dtype != torch.float32 or weights.shape[1] > MAX_V:
        raise ValueError(
            f"weights must be float32 [B, V <= {MAX_V}], is {weights.dtype} {tuple(weights.shape)}"
        )
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k is {k}, allowed 1 to {MAX_K}")
    if (scale is not None and not scale > 0) or not 1 <= maximum <= MAX_QUERY_IMPACT:
        raise ValueError(
            f"scale is {scale} and maximum is {maximum}, must be > 0 and 1 to {MAX_QUERY_IMPACT}"
        )
    return (topk_triton if use_triton(weights) else topk_reference)(weights, k, scale, maximum)


def topk_reference(weights: Tensor, k: int, scale: float | None = None, maximum: int = 1) -> Top:
    """The plain twin of the kernels, which serves on the CPU; arguments already checked."""
    k = min(k, weights.shape[1])
    # For weights >= 0 the bit pattern of a float32 ascends with its value, so (bits, -term) in one
    # int64 sorts by weight and then by term, which torch.topk alone does not promise.
    bits = torch.where(weights > 0, weights, 0.0).view(torch.int32).to(torch.int64)
    terms = torch.arange(weights.shape[1], device=weights.device)
    keys = torch.topk(bits << 32 | (0xFFFFFFFF - terms), k, dim=1).values
    values = (keys >> 32).to(torch.int32).view(torch.float32)
    found = values > 0
    values = torch.where(found, values, 0.0)
    chosen = torch.where(found, 0xFFFFFFFF - (keys & 0xFFFFFFFF), -1).to(torch.int32)
    counts, positive = (each.sum(1, dtype=torch.int32) for each in (found, weights > 0))
    impacts, clipped = torch.zeros_like(chosen), torch.zeros_like(counts)
    if scale is not None:
        impacts, clipped = quantize(values, scale, maximum)
    return Top(chosen, values, impacts, counts, positive, clipped.to(torch.int32))


@jit
def _merge(best, keys):  # type: ignore[no-untyped-def]
    """The larger half of two blocks of pairs, descending; ``best`` descends already."""
    if tl.max(keys, 0) > tl.min(best, 0):
        # A descending block against an ascending one: the greater of each place are the greater
        # half, falling, then rising.
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
    bits,  # as above
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
        # Adding 1.5 * 2^52 leaves a float64 no digits after the point: it rounds to the nearest
        # integer, ties to even.
        magic = tl.full((BEST,), 6755399441055744.0, tl.float64)
        exact = value.to(tl.float32, bitcast=True).to(tl.float64) / step
        exact = (tl.minimum(exact, MAXIMUM + 1.0) + magic) - magic
        impact = tl.minimum(tl.maximum(exact.to(tl.int32), 1), MAXIMUM)
        tl.store(impacts + place, tl.where(here, impact, 0), mask=j < K)
        tl.store(clipped + row, tl.sum((here & (exact > MAXIMUM)).to(tl.int32), 0))


_CHUNK = 4096
# Smaller blocks would make a row of a few hundred positive weights several merges long.
_LEAST = 256


def topk_triton(
    weights: Tensor, k: int, scale: float | None = None, maximum: int = 1, *, chunk: int = _CHUNK
) -> Top:
    """:func:`topk` by the Triton kernels, arguments already checked."""
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
