"""Make the Triton head differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .triton import NO_TOKEN, pool, sum_rows


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
    """Compute :func:`.api.head` by the Triton kernels; arguments are checked already.

    The host never waits for the device.
    """
    texts, tokens = len(cu_seqlens) - 1, len(hidden)
    # The text of each token. Tokens past the last offset get the number `texts`, which the kernel
    # excludes like -1.
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
        fused: torch.Tensor = _FusedHead.apply(*inputs, owners, texts, scale, shift)  # type: ignore[no-untyped-call]
        return fused
    best = torch.zeros(texts, len(weight), dtype=torch.int32, device=hidden.device)
    pool(*inputs, owners, best, scale, shift)
    return best.view(torch.float32).log1p_()


class _FusedHead(torch.autograd.Function):
    """Keep the winning token of each term; the backward pass sorts them and sums rows of W.

    The order of the sum is fixed, so gradients are repeatable.
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
            # Entries without a gradient sort behind the last token, outside every span.
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
