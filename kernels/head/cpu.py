"""Pool hidden states in plain torch, one tile of the vocabulary after another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Terms whose logits exist at a time.
TILE_TERMS = 2048


class TiledHead(torch.autograd.Function):
    """Pool tile by tile; the backward pass recomputes which tokens won the active terms."""

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
        """Return float32 [texts, terms]."""
        texts, terms = len(offsets) - 1, weight.shape[0]
        pooled = hidden.new_full((texts, terms), -torch.inf)
        for start in range(0, terms, TILE_TERMS):
            logits = hidden @ weight[start : start + TILE_TERMS].T
            for text in range(texts):
                if offsets[text + 1] > offsets[text]:
                    torch.amax(
                        logits[offsets[text] : offsets[text + 1]],
                        0,
                        out=pooled[text, start : start + TILE_TERMS],
                    )
        biased = pooled.float() if bias is None else pooled.float() + bias
        weights = torch.log1p(torch.relu(biased.mul_(scale).add_(shift)))
        ctx.save_for_backward(hidden, weight, weights)
        ctx.offsets, ctx.scale, ctx.has_bias = offsets, scale, bias is not None
        return weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of hidden, weight and bias."""
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
