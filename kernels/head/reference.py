"""Pool every logit at once: the plain version that the others equal."""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Compute what :func:`.api.head` computes, with the gradient of autograd."""
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
