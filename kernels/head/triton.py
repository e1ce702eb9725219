"""Multiply, pool and sum rows in Triton: the kernels of the head, their tiles and launches.

One program computes a tile of terms x tokens: the product stays in registers, each text with tokens
in the tile takes its maximum over them, and positive values go to ``[B, V]`` by an atomic maximum
over the bits of the float. Bits of floats > 0 ascend with the value, so any order of programs gives
the same result. Tiles ignore where texts end: none of the product is padding.

Count. The product is ``2 T H V`` operations. W is read once per group of token tiles (L2 holds the
rest), and nothing of size T x V is written, which a GEMM alone must do: 16,384 tokens of
SmolLM2-135M (576, 49,152) are 0.93 TFLOP against 1.6 GB of bf16 logits. Up to some 200 tokens the
lower bound is reading W: 57 MB for SmolLM2-135M, 525 MB for Llama-3.2-1B. A text costs a select and
a maximum per element of each tile that holds its tokens: with tiles of 128 x 128 about 512 cycles
of a multiprocessor beside ``8 H`` of the product, hidden while another resident program multiplies.
One program per text and term tile needs no atomics but pads each text to whole token tiles: 20 %
more products at 128 to 512 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..runtime.aot import MAX_CAPABILITY, AotCase
from ..runtime.launch import capability, jit, on_device, tl, triton

# Lower half of a packed winner (bits << 32 | NO_TOKEN - token): among equal maxima the first token
# is the largest number.
NO_TOKEN = 0x7FFFFFFF


@jit(varying=("texts", "T"))
def _pool_kernel(  # type: ignore[no-untyped-def]
    hidden,  # [T, H]: a pointer, or a tensor descriptor with TMA; weight [V, H] likewise
    weight,
    bias,  # float32 [V]
    owners,  # int32 [T], text of each token; -1 and `texts` exclude it
    best,  # [texts, V], zeros: int32, bits of the value; with WINNERS int64, then inverted token
    texts,
    T,
    V,
    H,
    hidden_stride,
    weight_stride,
    scale,
    shift,
    BLOCK_V: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    GROUP: tl.constexpr,
    TMA: tl.constexpr,
    WHOLE_H: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WINNERS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # Programs of a group share GROUP token tiles and one part of the vocabulary: both stay in L2.
    i = tl.program_id(0)
    in_group = GROUP * tl.cdiv(V, BLOCK_V)
    first_tile = i // in_group * GROUP
    tiles = tl.minimum(tl.cdiv(T, BLOCK_T) - first_tile, GROUP)
    t0 = (first_tile + i % in_group % tiles) * BLOCK_T
    v0 = i % in_group // tiles * BLOCK_V
    t = t0 + tl.arange(0, BLOCK_T)
    v = v0 + tl.arange(0, BLOCK_V)

    owner = tl.load(owners + t, mask=t < T, other=-1)
    owner = tl.where(owner < texts, owner, -1)
    last = tl.max(owner, 0)
    if last < 0:
        return
    first = tl.min(tl.where(owner < 0, last, owner), 0)

    h = tl.arange(0, BLOCK_H)
    if not TMA:
        # Rows past the end repeat the last one: no mask is needed; their results are not stored.
        hidden += tl.minimum(t, T - 1).to(tl.int64)[None, :] * hidden_stride + h[:, None]
        weight += tl.minimum(v, V - 1).to(tl.int64)[:, None] * weight_stride + h[None, :]
    logits = tl.zeros((BLOCK_V, BLOCK_T), tl.float32)
    for h0 in range(0, H, BLOCK_H):
        if TMA:
            w = weight.load([v0, h0])
            x = hidden.load([t0, h0]).T
        elif WHOLE_H:
            w = tl.load(weight + h0)
            x = tl.load(hidden + h0)
        else:
            w = tl.load(weight + h0, mask=(h0 + h < H)[None, :], other=0.0)
            x = tl.load(hidden + h0, mask=(h0 + h < H)[:, None], other=0.0)
        logits = tl.dot(w, x, logits, input_precision=PRECISION)

    added = tl.load(bias + v, mask=v < V, other=0.0) if HAS_BIAS else 0.0
    for text in range(first, last + 1):
        own = (owner == text)[None, :]
        top = tl.max(tl.where(own, logits, float("-inf")), 1)
        z = (top + added) * scale + shift
        active = (v < V) & (z > 0)
        bits = z.to(tl.int32, bitcast=True)
        places = best + tl.cast(text, tl.int64) * V + v
        if WINNERS:
            token = tl.min(tl.where(own & (logits == top[:, None]), t[None, :], 0x7FFFFFFF), 1)
            tl.atomic_max(
                places, (bits.to(tl.int64) << 32) | (0x7FFFFFFF - token), mask=active, sem="relaxed"
            )
        else:
            tl.atomic_max(places, bits, mask=active, sem="relaxed")


@jit(varying=("texts", "T"))
def _mark_kernel(  # type: ignore[no-untyped-def]
    hidden,  # [T, H]
    owners,
    best,
    texts,
    T,
    V,
    H,
    hidden_stride,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    WINNERS: tl.constexpr,
):
    """Make the weight of term 0 NaN in texts with a hidden state that is not finite.

    Such a state makes every logit of its token NaN or infinite. NaN has the largest bits, so the
    mark wins the atomic maximum, and topk counts it.
    """
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    owner = tl.load(owners + t, mask=t < T, other=-1)
    pooled = (owner >= 0) & (owner < texts)
    strange = tl.zeros((BLOCK_T,), tl.int32)
    rows = hidden + t.to(tl.int64)[:, None] * hidden_stride
    for h0 in range(0, H, BLOCK_H):
        h = h0 + tl.arange(0, BLOCK_H)[None, :]
        x = tl.load(rows + h, mask=pooled[:, None] & (h < H), other=0.0).to(tl.float32)
        strange += tl.sum((x - x != 0).to(tl.int32), 1)
    places = best + tl.maximum(owner, 0).to(tl.int64) * V
    nan = tl.full((BLOCK_T,), 0x7FC00000, tl.int32)
    marked = pooled & (strange > 0)
    if WINNERS:
        tl.atomic_max(places, nan.to(tl.int64) << 32, mask=marked, sem="relaxed")
    else:
        tl.atomic_max(places, nan, mask=marked, sem="relaxed")


@jit
def _sum_rows_kernel(  # type: ignore[no-untyped-def]
    rows,  # [n, H]
    coefficients,  # float32, grouped by span
    sources,  # int64, row of each coefficient
    starts,  # int64 [m + 1]
    out,  # [m, H]
    H,
    row_stride,
    BLOCK_J: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    end = tl.load(starts + i + 1)
    total = tl.zeros((BLOCK_H,), tl.float32)
    for start in range(tl.load(starts + i), end, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        coefficient = tl.load(coefficients + j, mask=j < end, other=0.0)
        source = tl.load(sources + j, mask=j < end, other=0).to(tl.int64)
        row = tl.load(
            rows + source[:, None] * row_stride + h[None, :],
            mask=(coefficient != 0)[:, None] & (h < H)[None, :],
            other=0.0,
        )
        total += tl.sum(coefficient[:, None] * row.to(tl.float32), 0)
    tl.store(out + i * H + h, total.to(out.dtype.element_ty), mask=h < H)


@dataclass(frozen=True)
class Tile:
    """Shape the work of one program.

    Attributes:
        terms, tokens: of the tile.
        width: hidden units per step.
        warps: of the program.
        stages: depth of software pipelining.
    """

    terms: int
    tokens: int
    width: int
    warps: int
    stages: int


# Tokens of a program that looks for hidden states that are not finite, and units per step.
_MARK_TOKENS = 4
_MARK_WIDTH = 512
# Token tiles that share a part of the vocabulary.
_GROUP = 16
# Tiles by the largest number of tokens for which each is used. With few tokens the time goes into
# reading W: steps are wide and many are in flight. With many, two programs of the last tile fit on
# a multiprocessor (168 registers, 98 KB), so the maxima of one overlap with the products of the
# other.
_HALF_TILES = {
    16: Tile(64, 16, 128, 4, 4),
    32: Tile(64, 32, 128, 4, 4),
    64: Tile(64, 64, 128, 4, 3),
    2**31: Tile(128, 128, 64, 4, 3),
}
# With the tensor memory accelerator and 227 KB of shared memory per program (sm_90, sm_100), from
# this number of tokens on: a wider tile reads a quarter less shared memory per product. 147 KB.
_WIDE_TOKENS = 1024
_WIDE_TILE = Tile(128, 256, 64, 8, 3)
_FLOAT_TILES = {16: Tile(64, 16, 32, 4, 3), 2**31: Tile(64, 64, 32, 4, 3)}
# Rows that do not start at multiples of 16 bytes are read element by element, in more registers.
_ODD_TILE = Tile(64, 64, 32, 4, 2)


def tile_tokens(dtype: torch.dtype) -> list[int]:
    """Return one number of tokens for each tile that hidden states of this dtype can take."""
    tiles = _FLOAT_TILES if dtype == torch.float32 else _HALF_TILES
    return [1, *(tokens + 1 for tokens in list(tiles)[:-1]), _WIDE_TOKENS]


def _tile(tokens: int, dtype: torch.dtype, *, even: bool, wide: bool) -> Tile:
    if not even:
        return _ODD_TILE
    if wide and tokens >= _WIDE_TOKENS:
        return _WIDE_TILE
    tiles = _FLOAT_TILES if dtype == torch.float32 else _HALF_TILES
    return next(tile for most, tile in tiles.items() if tokens <= most)


def pool(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    owners: Tensor,
    best: Tensor,
    scale: float,
    shift: float,
    *,
    tma: bool | None = None,
    tile: Tile | None = None,
) -> None:
    """Fill ``best``, see the kernel.

    Args:
        tma: whether tiles are copied by the tensor memory accelerator; None uses it where the
            device has one and the strides allow it.
        tile: None uses the shipped tile for this number of tokens.
    """
    (tokens, width), terms = hidden.shape, len(weight)
    if not tokens or not terms:
        return
    operands: tuple[Any, Any] = (hidden, weight)
    if tma is None:
        tma = (
            capability(hidden.device) >= 90
            and hidden.element_size() == 2
            and all(rows.data_ptr() % 16 == 0 and rows.stride(0) % 8 == 0 for rows in operands)
        )
    if tile is None:
        even = width % 16 == 0 and all(rows.stride(0) % 16 == 0 for rows in operands)
        wide = tma and best.dtype == torch.int32 and capability(hidden.device) < 120
        tile = _tile(tokens, hidden.dtype, even=tma or even, wide=wide)
    if tma:
        from triton.tools.tensor_descriptor import TensorDescriptor

        operands = (
            TensorDescriptor.from_tensor(hidden, [tile.tokens, tile.width]),
            TensorDescriptor.from_tensor(weight, [tile.terms, tile.width]),
        )
    programs = triton.cdiv(tokens, tile.tokens) * triton.cdiv(terms, tile.terms)
    with on_device(hidden):
        _mark_kernel[(triton.cdiv(tokens, _MARK_TOKENS),)](
            hidden,
            owners,
            best,
            len(best),
            tokens,
            terms,
            width,
            hidden.stride(0),
            BLOCK_T=_MARK_TOKENS,
            BLOCK_H=_MARK_WIDTH,
            WINNERS=best.dtype == torch.int64,
        )
        _pool_kernel[(programs,)](
            *operands,
            None if bias is None else bias.float().contiguous(),
            owners,
            best,
            len(best),
            tokens,
            terms,
            width,
            hidden.stride(0),
            weight.stride(0),
            float(scale),
            float(shift),
            BLOCK_V=tile.terms,
            BLOCK_T=tile.tokens,
            BLOCK_H=tile.width,
            GROUP=_GROUP,
            TMA=tma,
            WHOLE_H=tma or width % tile.width == 0,
            HAS_BIAS=bias is not None,
            WINNERS=best.dtype == torch.int64,
            PRECISION="ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
            num_warps=tile.warps,
            num_stages=tile.stages,
        )


def sum_rows(rows: Tensor, coefficients: Tensor, sources: Tensor, starts: Tensor) -> Tensor:
    """Return ``out[i] = sum of coefficients[j] * rows[sources[j]] over j of span i``.

    Sums are float32; rows with coefficient 0 are not read.
    """
    spans, width = len(starts) - 1, rows.shape[1]
    out = torch.empty(spans, width, dtype=rows.dtype, device=rows.device)
    block = min(256, triton.next_power_of_2(width))
    if spans and width:
        with on_device(rows):
            _sum_rows_kernel[(spans, triton.cdiv(width, block))](
                rows,
                coefficients,
                sources,
                starts,
                out,
                width,
                rows.stride(0),
                BLOCK_J=16,
                BLOCK_H=block,
            )
    return out


def _pool_case(
    dtype: str, tokens: int, *, tma: bool = False, winners: bool = False, even: bool = True
) -> AotCase:
    kind = torch.float32 if dtype == "fp32" else torch.bfloat16
    tile = _tile(tokens, kind, even=even, wide=tma and not winners)
    constexprs = {
        "BLOCK_V": tile.terms,
        "BLOCK_T": tile.tokens,
        "BLOCK_H": tile.width,
        "GROUP": _GROUP,
        "TMA": tma,
        "WHOLE_H": even,
        "HAS_BIAS": True,
        "WINNERS": winners,
        "PRECISION": "ieee",
    }
    rows = "tensordesc<{}[{},{}]>" if tma else "*{}"
    everywhere = dtype == "fp32" or not even
    products = (
        {0: ("FFMA",)}
        if dtype == "fp32"
        else {
            80: ("HMMA",),
            90: ("HGMMA",),
            100: ("UTCHMMA",),
            120: ("HMMA",),  # consumer Blackwell has neither wgmma nor tcgen05
        }
    )
    loads = ("UTMALDG",) if tma else ("LDGSTS",) if even else ()
    return AotCase(
        name=f"head/pool/{dtype}-{tile.terms}x{tile.tokens}"
        + "-tma" * tma
        + "-winners" * winners
        + "-odd" * (not even),
        kernel=_pool_kernel,
        signature={
            "hidden": rows.format(dtype, tile.tokens, tile.width),
            "weight": rows.format(dtype, tile.terms, tile.width),
            "bias": "*fp32",
            "owners": "*i32",
            "best": "*i64" if winners else "*i32",
            **dict.fromkeys(("texts", "T", "V", "H", "hidden_stride", "weight_stride"), "i32"),
            **dict.fromkeys(("scale", "shift"), "fp32"),
            **dict.fromkeys(constexprs, "constexpr"),
        },
        constexprs=constexprs,
        num_warps=tile.warps,
        num_stages=tile.stages,
        aligned=("bias", "owners", "best")
        + ("hidden", "weight") * (not tma)
        + ("H", "hidden_stride", "weight_stride") * even,
        expects={capability: (*names, *loads) for capability, names in products.items()},
        min_capability=90 if tma else 80,
        max_capability=MAX_CAPABILITY if tma or everywhere else 89,
    )


def _mark_case(dtype: str, *, winners: bool) -> AotCase:
    constexprs = {"BLOCK_T": _MARK_TOKENS, "BLOCK_H": _MARK_WIDTH, "WINNERS": winners}
    return AotCase(
        name=f"head/mark/{dtype}" + "-winners" * winners,
        kernel=_mark_kernel,
        signature={
            "hidden": f"*{dtype}",
            "owners": "*i32",
            "best": "*i64" if winners else "*i32",
            **dict.fromkeys(("texts", "T", "V", "H", "hidden_stride"), "i32"),
            **dict.fromkeys(constexprs, "constexpr"),
        },
        constexprs=constexprs,
        aligned=("hidden", "owners", "best", "V", "H", "hidden_stride"),
        expects={80: ("LDG.E.128",)},
    )


def _sum_rows_case(dtype: str) -> AotCase:
    return AotCase(
        name=f"head/sum_rows/{dtype}",
        kernel=_sum_rows_kernel,
        signature={
            "rows": f"*{dtype}",
            "coefficients": "*fp32",
            "sources": "*i64",
            "starts": "*i64",
            "out": f"*{dtype}",
            "H": "i32",
            "row_stride": "i32",
            "BLOCK_J": "constexpr",
            "BLOCK_H": "constexpr",
        },
        constexprs={"BLOCK_J": 16, "BLOCK_H": 256},
        aligned=("rows", "coefficients", "sources", "starts", "out", "H", "row_stride"),
    )


AOT: list[AotCase] = [
    *(_pool_case("bf16", tokens, tma=tma) for tokens in (16, 32, 64, 512) for tma in (False, True)),
    _pool_case("bf16", 16384, tma=True),
    _pool_case("bf16", 16384, winners=True),
    _pool_case("bf16", 16384, tma=True, winners=True),
    *(_pool_case("bf16", 16384, winners=winners, even=False) for winners in (False, True)),
    _pool_case("fp16", 16384, tma=True),
    *(_pool_case("fp32", tokens) for tokens in (16, 16384)),
    _pool_case("fp32", 16384, winners=True),
    _mark_case("bf16", winners=False),
    _mark_case("fp32", winners=True),
    _sum_rows_case("bf16"),
    _sum_rows_case("fp32"),
]
