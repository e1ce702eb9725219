"""head: hidden states to one weight per term, without ever holding a logit per token and term.

    weight[b, v] = log1p(relu(scale * (max over pooled tokens i of b of hidden[i] . W[v] + bias[v])
    + shift))

The maximum is taken over raw logits first: bias, scale, shift, ReLU and log1p are the same for
every token of a term and monotone (scale > 0), so they are applied once, to ``[B, V]``. The
gradient flows through the token that gave the maximum and only where the weight is positive, so the
backward pass touches a few hundred terms per text instead of all of them.

On the CPU the vocabulary is walked in tiles, and only ``[T, tile]`` logits exist at a time. On CUDA
one Triton kernel does a tile of terms x tokens per program: the product stays in registers, each
text that has tokens in the tile takes its maximum over them, and what is positive goes to ``[B,
V]`` by an atomic maximum over the bits of the float (for floats > 0 they ascend with the value, so
any order of programs gives the same result). Tiles pay no heed to where texts end: none of the
product is padding.

Count. The product is ``2 T H V`` operations; W is read once per ``GROUP`` token tiles (L2 holds the
rest), and nothing of size T x V is written, which a GEMM alone must do: 16,384 tokens of
SmolLM2-135M (576, 49,152) are 0.93 TFLOP against 1.6 GB of bf16 logits. Up to some 200 tokens
reading W is the floor instead: 57 MB for SmolLM2-135M, 525 MB for Llama-3.2-1B. A text costs a
select and a maximum per element of each tile it has tokens in: with tiles of 128 x 128 about 512
cycles of a multiprocessor beside ``8 H`` of the product, hidden while another resident program
multiplies; two fit in registers and shared memory. One program per text and term tile would need no
atomics, but would pad each text to whole token tiles: 20 % more products at 128 to 512 tokens.

Formula: SPLADE v2 (arXiv 2109.10086), CSPLADE (arXiv 2504.10816); max before activation: Sparton
(arXiv 2603.25011).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..runtime.launch import use_triton
from .triton import AOT as AOT
from .triton import NO_TOKEN, pool, sum_rows

TILE = 2048


def head(
    hidden: Tensor,
    weight: Tensor,
    cu_seqlens: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    shift: float = 0.0,
    pooled: Tensor | None = None,
) -> Tensor:
    """Pool hidden states into term weights; differentiable in ``hidden``, ``weight`` and ``bias``.

    float32 products on CUDA are exact float32 unless ``torch.set_float32_matmul_precision`` allows
    TF32.

    Args:
        hidden: float [T, H], the tokens of all texts one after the other.
        weight: float [V, H], same dtype as ``hidden``.
        cu_seqlens: integer [B + 1], text b owns ``hidden[cu_seqlens[b]:cu_seqlens[b + 1]]``; it may
            own nothing. Best on the CPU; on CUDA its values are taken on trust, since looking at
            them would wait for the device.
        bias: float32 [V] added to the raw logits; -inf leaves a term out.
        scale: factor on the biased logits, > 0.
        shift: added after the scale.
        pooled: bool [T], False for tokens that are not to be pooled, such as the first copy of an
            echo; None pools all. Leaving them out of ``hidden`` gives the same and spares their
            products.

    Returns:
        float32 [B, V], all zero for a text without tokens.

    Raises:
        ValueError: shapes, dtypes or offsets that do not fit together, or ``scale`` not > 0.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} must be [T, H] and "
            "[V, H]"
        )
    if hidden.dtype != weight.dtype:
        raise ValueError(f"hidden is {hidden.dtype} but weight is {weight.dtype}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias {tuple(bias.shape)} must be [V] = [{weight.shape[0]}]")
    if pooled is not None and (pooled.shape != hidden.shape[:1] or pooled.dtype != torch.bool):
        raise ValueError(
            f"pooled {pooled.dtype} {tuple(pooled.shape)} must be bool [T] = [{hidden.shape[0]}]"
        )
    if not scale > 0:
        raise ValueError(f"scale is {scale}, must be > 0")
    if cu_seqlens.ndim != 1 or not len(cu_seqlens):
        raise ValueError(f"cu_seqlens {tuple(cu_seqlens.shape)} must be [B + 1]")
    fused = use_triton(hidden)
    if not (fused and cu_seqlens.is_cuda):
        offsets = cu_seqlens.tolist()
        if offsets[0] != 0 or offsets[-1] != hidden.shape[0] or offsets != sorted(offsets):
            raise ValueError(
                f"cu_seqlens must ascend from 0 to T = {hidden.shape[0]}, is {offsets[:3]} ... "
                f"{offsets[-1:]}"
            )
    if fused:
        return fused_head(
            hidden, weight, cu_seqlens, bias=bias, scale=scale, shift=shift, pooled=pooled
        )
    if pooled is not None:
        hidden = hidden[pooled]
        kept = torch.cat([torch.zeros(1, dtype=torch.int64), pooled.cpu().cumsum(0)])
        offsets = kept[offsets].tolist()
    return _TiledHead.apply(hidden, weight, bias, offsets, scale, shift)


def head_reference(
    hidden: Tensor,
    weight: Tensor,
    cu_seqlens: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    shift: float = 0.0,
    pooled: Tensor | None = None,
) -> Tensor:
    """The plain twin of :func:`head`: every logit at once, autograd's own gradient."""
    logits = (hidden @ weight.T).float()
    if bias is not None:
        logits = logits + bias
    activations = torch.log1p(torch.relu(scale * logits + shift))
    if pooled is None:
        pooled = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
    spans = zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True)
    return torch.stack(
        [
            activations[a:b][pooled[a:b]].amax(0)
            if pooled[a:b].any()
            else activations.new_zeros(len(weight))
            for a, b in spans
        ]
    )


class _TiledHead(torch.autograd.Function):
    """Plain torch, tile after tile of the vocabulary; the backward pass finds the winning tokens of
    active terms anew.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        offsets: list[int],
        scale: float,
        shift: float,
    ) -> Tensor:
        texts, terms = len(offsets) - 1, weight.shape[0]
        pooled = hidden.new_full((texts, terms), -torch.inf)
        for start in range(0, terms, TILE):
            logits = hidden @ weight[start : start + TILE].T
            for text in range(texts):
                if offsets[text + 1] > offsets[text]:
                    torch.amax(
                        logits[offsets[text] : offsets[text + 1]],
                        0,
                        out=pooled[text, start : start + TILE],
                    )
        biased = pooled.float() if bias is None else pooled.float() + bias
        weights = torch.log1p(torch.relu(biased.mul_(scale).add_(shift)))
        ctx.save_for_backward(hidden, weight, weights)
        ctx.offsets, ctx.scale, ctx.has_bias = offsets, scale, bias is not None
        return weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        hidden, weight, weights = ctx.saved_tensors
        hidden_gradient = torch.zeros_like(hidden, dtype=torch.float32)
        weight_gradient = (
            torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        )
        # d log1p(z) / dz = 1 / (1 + z) = exp(-log1p(z))
        by_logit = gradient * torch.exp(-weights) * ctx.scale * (weights > 0)
        for text in range(len(weights)):
            tokens = hidden[ctx.offsets[text] : ctx.offsets[text + 1]]
            terms = by_logit[text].nonzero().squeeze(1)
            if len(terms) == 0:
                continue
            rows = weight[terms]
            winners = (tokens @ rows.T).float().argmax(0) + ctx.offsets[text]
            values = by_logit[text, terms, None]
            hidden_gradient.index_add_(0, winners, values * rows.float())
            if weight_gradient is not None:
                weight_gradient.index_add_(0, terms, values * hidden[winners].float())
        return (
            hidden_gradient.to(hidden.dtype),
            None if weight_gradient is None else weight_gradient.to(weight.dtype),
            by_logit.sum(0) if ctx.has_bias else None,
            None,
            None,
            None,
        )


def fused_head(
    hidden: Tensor,
    weight: Tensor,
    cu_seqlens: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    shift: float = 0.0,
    pooled: Tensor | None = None,
) -> Tensor:
    """:func:`head` by the Triton kernels, arguments already checked; the host never waits for the
    device.
    """
    texts, tokens = len(cu_seqlens) - 1, len(hidden)
    # The text of each token: tokens past the last offset get the number `texts`, which the kernel
    # leaves out like -1.
    owners = torch.bucketize(
        torch.arange(tokens, device=cu_seqlens.device), cu_seqlens[1:], right=True, out_int32=True
    ).to(hidden.device, non_blocking=True)
    if pooled is not None:
        owners = torch.where(pooled, owners, -1)
    hidden, weight = (
        rows if rows.stride(1) == 1 else rows.contiguous() for rows in (hidden, weight)
    )
    inputs = (hidden, weight, bias)
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in inputs):
        return _FusedHead.apply(*inputs, owners, texts, scale, shift)
    best = torch.zeros(texts, len(weight), dtype=torch.int32, device=hidden.device)
    pool(*inputs, owners, best, scale, shift)
    return best.view(torch.float32).log1p_()


class _FusedHead(torch.autograd.Function):
    """The kernel with winners kept; its backward pass sorts them by token and sums rows of W, in
    one fixed order.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        owners: Tensor,
        texts: int,
        scale: float,
        shift: float,
    ) -> Tensor:
        best = torch.zeros(texts, len(weight), dtype=torch.int64, device=hidden.device)
        pool(hidden, weight, bias, owners, best, scale, shift)
        weights = (best >> 32).to(torch.int32).view(torch.float32).log1p_()
        winners = (NO_TOKEN - (best & NO_TOKEN)).to(torch.int32)
        ctx.save_for_backward(hidden, weight, weights, winners)
        ctx.scale, ctx.has_bias = scale, bias is not None
        return weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        hidden, weight, weights, winners = ctx.saved_tensors
        texts, terms = weights.shape
        by_logit = torch.where(weights > 0, gradient * torch.exp(-weights) * ctx.scale, 0.0)
        hidden_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            # Entries without a gradient sort behind the last token, so no token's span reaches
            # them.
            tokens, places = (
                torch.where(by_logit != 0, winners, len(hidden)).flatten().sort(stable=True)
            )
            starts = torch.searchsorted(tokens, torch.arange(len(hidden) + 1, device=hidden.device))
            hidden_gradient = sum_rows(weight, by_logit.flatten()[places], places % terms, starts)
        if ctx.needs_input_grad[1]:
            starts = texts * torch.arange(terms + 1, device=hidden.device)
            weight_gradient = sum_rows(hidden, by_logit.T.flatten(), winners.T.flatten(), starts)
        bias_gradient = by_logit.sum(0) if ctx.has_bias else None
        return hidden_gradient, weight_gradient, bias_gradient, None, None, None, None
