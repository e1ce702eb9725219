"""Losses and regularizers of sparse encoders, each with its source."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def adaptation(
    logits: Tensor, targets: Tensor, *, scale: float, shift: float, relu_weight: float = 1.0
) -> Tensor:
    """``CE(logits) + relu_weight * CE(log1p(relu(scale * logits + shift)))``, CSPLADE section 3.2.

    Args:
        logits: float [n, V] raw logits.
        targets: int64 [n].
        scale: of the activation.
        shift: of the activation.
        relu_weight: weight of the second term; 1 in the paper.
    """
    logits = logits.float()
    activated = torch.log1p(torch.relu(scale * logits + shift))
    return F.cross_entropy(logits, targets) + relu_weight * F.cross_entropy(activated, targets)


def info_nce(scores: Tensor, positives: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Cross-entropy of each query's positive against every passage of the batch.

    Args:
        scores: float [B, P] query against passage, temperature already applied.
        positives: int64 [B], column of each query's positive.
        ignored: bool [B, P], pairs that are relevant too and so are no negatives.
    """
    if ignored is not None:
        scores = scores.masked_fill(ignored, -torch.inf)
    return F.cross_entropy(scores, positives)


def flops(weights: Tensor) -> Tensor:
    """FLOPS regularizer ``sum_j (mean over the batch of w_j)^2`` (Paria et al., arXiv 2004.05665)."""
    return weights.mean(0).square().sum()


def ramp(step: int, steps: int) -> float:
    """Quadratic ramp from 0 to 1 over ``steps`` (SPLADE); 1 where ``steps`` is 0."""
    return min(1.0, (step / steps) ** 2) if steps else 1.0
