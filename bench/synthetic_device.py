"""A synthetic collection made on the device itself, straight into postings: nine million documents
take seconds there.

The distribution is that of :mod:`.distribution`; the random numbers are the device's, so a seed
gives one collection on a GPU and another one on a CPU.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..kernels.score.layout import Layout
from ..kernels.score.types import MAX_BLOCK_DOCUMENTS, Postings
from .distribution import DOCUMENT_IMPACTS, probabilities


def collection(
    documents: int,
    mean_terms: float,
    vocabulary: int,
    seed: int,
    device: torch.device,
    *,
    block_size: int = MAX_BLOCK_DOCUMENTS,
) -> Postings:
    """Documents of Poisson(``mean_terms``) distinct terms each, drawn by rank.

    Args:
        documents: how many.
        mean_terms: mean of the number of terms.
        vocabulary: terms are 0 to vocabulary - 1.
        seed: of the device's random numbers.
        device: where it is made and stays.
        block_size: documents of a full block.
    """
    random = torch.Generator(device).manual_seed(seed)
    edges = torch.from_numpy(probabilities(vocabulary)).cumsum(0).to(device)
    blocks = [
        _block(min(block_size, documents - first), mean_terms, edges, random)
        for first in range(0, documents, block_size)
    ]
    layout = Layout.of_rows(
        torch.cat([block[0] for block in blocks]).cpu().numpy(),
        torch.cat([block[1] for block in blocks]).cpu().numpy(),
        np.cumsum([0, *(len(block[0]) for block in blocks)]),
        documents,
        block_size,
    )
    arrivals = np.split(np.arange(documents), range(block_size, documents, block_size))
    return layout.fill(device, lambda block: blocks[block][2:], arrivals)


def _block(
    documents: int, mean_terms: float, edges: Tensor, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a block's terms int32, their posting counts, locals uint16 and impacts uint8."""
    device = edges.device
    lengths = torch.poisson(
        torch.full((documents,), float(mean_terms), device=device), generator=random
    ).long()
    # Repeated draws of a term fall out, so more are drawn than needed, and the first distinct ones
    # are kept.
    width = int(2 * lengths.max() + 16)
    drawn = torch.rand((documents, width), dtype=torch.float64, device=device, generator=random)
    terms = torch.searchsorted(edges, drawn).clamp(max=len(edges) - 1)
    turns = torch.arange(width, device=device)
    # By term, then by turn: the first of each run of equal terms is that term's first draw.
    keys = (terms << 16 | turns).sort(dim=1).values
    first = torch.ones_like(keys, dtype=torch.bool)
    first[:, 1:] = keys[:, 1:] >> 16 != keys[:, :-1] >> 16
    fresh = torch.zeros_like(first).scatter_(1, keys & 0xFFFF, first)
    kept = fresh & (fresh.cumsum(1) <= lengths[:, None]) & (turns < 2 * lengths[:, None] + 16)
    owners = torch.arange(documents, device=device)[:, None]
    found = (terms << 14 | owners)[kept].sort().values
    block_terms, counts = torch.unique_consecutive(found >> 14, return_counts=True)
    impacts = torch.empty(len(found), device=device).log_normal_(
        *DOCUMENT_IMPACTS, generator=random
    )
    return (
        block_terms.to(torch.int32),
        counts,
        # torch has few functions for uint16: the bytes of an int16 are the same.
        (found & 0x3FFF).to(torch.int16).view(torch.uint16),
        impacts.round_().clamp_(1, 255).to(torch.uint8),
    )
