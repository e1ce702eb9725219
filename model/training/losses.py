"""Losses and regularizers of sparse encoders, each with its source."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def adaptation(
    logits: Tensor, targets: Tensor, *, scale: float, shift: float, relu_weight: float = 1.0
) -> Tensor:
    """Return ``CE(logits) + relu_weight * CE(log1p(relu(scale * logits + shift)))``.

    CSPLADE (arXiv 2504.10816), section 3.2.

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
    """Return the cross-entropy of each query's positive against every passage of the batch.

    Args:
        scores: float [B, P] query against passage, temperature already applied.
        positives: int64 [B], column of each query's positive.
        ignored: bool [B, P], pairs that are relevant too, and so not negatives.
    """
    if ignored is not None:
        scores = scores.masked_fill(ignored, -torch.inf)
    return F.cross_entropy(scores, positives)


def kl(scores: Tensor, teacher: Tensor, listed: Tensor) -> Tensor:
    """Return ``KL(softmax(teacher) || softmax(scores))`` over each query's listed passages.

    The mean over queries.

    Args:
        scores: float [B, P] student scores, temperature already applied.
        teacher: float [B, P] teacher scores, temperature already applied; only listed ones are
            looked at.
        listed: bool [B, P], at least one true per query.
    """
    student = F.log_softmax(scores.masked_fill(~listed, -torch.inf), 1).masked_fill(~listed, 0.0)
    wanted = F.log_softmax(teacher.masked_fill(~listed, -torch.inf), 1).masked_fill(~listed, 0.0)
    return (wanted.exp() * listed * (wanted - student)).sum(1).mean()


def margin_mse(scores: Tensor, teacher: Tensor, positives: Tensor, listed: Tensor) -> Tensor:
    """Return the mean squared error of the margins ``positive - negative``.

    MarginMSE (Hofstätter et al., arXiv 2010.02666).

    Args:
        scores: float [B, P] student scores.
        teacher: float [B, P] teacher scores; only listed ones are looked at.
        positives: int64 [B], column of each query's positive, a listed one.
        listed: bool [B, P].
    """
    student_margin = scores.gather(1, positives[:, None]) - scores
    teacher_margin = teacher.gather(1, positives[:, None]) - teacher
    negatives = listed.scatter(1, positives[:, None], False)
    return (student_margin - teacher_margin).square()[negatives].mean()


def flops(weights: Tensor) -> Tensor:
    """Return ``sum_j (mean over the batch of w_j)^2``, FLOPS (Paria et al., arXiv 2004.05665)."""
    return weights.mean(0).square().sum()


def l1(weights: Tensor) -> Tensor:
    """Return the mean over the batch of the sum of weights (float [B, V], >= 0).

    Efficient SPLADE's regularizer of queries (arXiv 2207.03834).
    """
    return weights.sum(1).mean()


def ramp(step: int, steps: int) -> float:
    """Return a quadratic ramp from 0 to 1 over ``steps`` (SPLADE); 1 where ``steps`` is 0."""
    return min(1.0, (step / steps) ** 2) if steps else 1.0
