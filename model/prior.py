"""The lexical prior: what a document's own terms weigh before the model says anything.

BM25's share of the document, ``tf / (tf + k1 * (1 - b + b * tokens / mean tokens))`` (Robertson and
Zaragoza 2009), between 0 and 1. A lexical query encoder holds the IDF, so that their product is
BM25's; the model adds to it: more to the terms that matter, and terms that the text does not
contain.
"""

from __future__ import annotations

import torch
from torch import Tensor

K1, B = 0.8, 0.75
MEAN_TOKENS = 120.0


def own_share(
    rows: Tensor, lengths: Tensor, terms: int, mean_tokens: float = MEAN_TOKENS
) -> Tensor:
    """Return the share of each term in its own text.

    Args:
        rows: int64 [B, S], the kept term that each token stands for; -1 for padding and where it is
            not kept.
        lengths: [B], tokens of each text, those not kept among them.
        terms: Vk, kept terms.
        mean_tokens: length at which b has no effect.

    Returns:
        float32 [B, Vk], 0 at terms that the text does not contain.
    """
    counts = torch.zeros(len(rows), terms + 1, device=rows.device)
    counts = counts.scatter_add_(1, rows + 1, torch.ones_like(rows, dtype=torch.float32))[:, 1:]
    return saturated(counts, lengths, mean_tokens)


def saturated(counts: Tensor, lengths: Tensor, mean_tokens: float = MEAN_TOKENS) -> Tensor:
    """Return shares, float32 [B, n], of ``counts`` [B, n] in texts of ``lengths`` [B] tokens."""
    return counts / (counts + K1 * (1 - B + B * lengths[:, None].to(counts) / mean_tokens))
