"""Score every query against every document, term by term: the plain versions of the scorers.

``score`` takes one block in NumPy; ``score_blocks`` takes many in torch, on any device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.errors import InputError
from ...core.ranking_key import LAST_ARRIVAL
from ...core.vectors import ImpactBatch
from ..runtime.launch import YES, Support
from .types import (
    BIN_SHIFT,
    FIRST_BIN,
    SCORE_BINS,
    TILE_DOCUMENTS,
    UNIT_POSTINGS,
    Block,
    BlockScores,
    Postings,
    Queries,
    check_queries,
)


@dataclass(frozen=True)
class Scores:
    """Hold the scores of n queries in one block.

    Attributes:
        scores: int32 [n, documents], 0 where no term is shared or the mask excludes the document.
        matched: int64 [n], documents in the mask that share at least one term.
        postings: int64 [n], postings read.
    """

    scores: NDArray[np.int32]
    matched: NDArray[np.int64]
    postings: NDArray[np.int64]


def score(queries: ImpactBatch, block: Block, mask: NDArray[np.uint8] | None = None) -> Scores:
    """Return ``scores[q, d] = sum over shared terms of query impact * document impact``.

    Integers add to the same sum in any order, so every backend gives these very numbers.

    Args:
        queries: n vectors of at most 2,048 terms with impacts 1 to 4,095.
        block: the documents.
        mask: uint8 [documents] or [n, documents]; 0 excludes a document. None keeps all.

    Raises:
        InputError: an argument breaks its rules.
    """
    check_queries(queries)
    block.check()
    shapes = ((block.documents,), (len(queries), block.documents))
    if mask is not None and (mask.dtype != np.uint8 or mask.shape not in shapes):
        raise InputError(
            f"mask: {mask.dtype} {list(mask.shape)} does not fit; must be uint8 "
            f"{list(shapes[0])} or {list(shapes[1])}"
        )
    sums = np.zeros((len(queries), block.documents), dtype=np.int64)
    postings = np.zeros(len(queries), dtype=np.int64)
    for q, (terms, impacts) in enumerate(queries):
        rows = np.searchsorted(block.terms, terms)
        for row, term, impact in zip(rows, terms, impacts, strict=True):
            if row == len(block.terms) or block.terms[row] != term:
                continue
            span = slice(block.indptr[row], block.indptr[row + 1])
            sums[q, block.locals[span]] += np.int64(impact) * block.impacts[span]
            postings[q] += span.stop - span.start
    if mask is not None:
        sums *= mask != 0
    return Scores(sums.astype(np.int32), (sums > 0).sum(axis=1, dtype=np.int64), postings)


def supports(postings: Postings) -> Support:
    """Say that plain torch takes any postings."""
    return YES


def score_blocks(queries: Queries, postings: Postings, mask: Tensor | None, k: int) -> BlockScores:
    """Compute :func:`.api.score_blocks` in plain torch, without k; reading offsets synchronizes."""
    n, blocks, width = len(queries), postings.blocks, postings.width
    scores = torch.zeros((n, blocks, width), dtype=torch.int32, device=postings.device)
    read = torch.zeros(n, dtype=torch.int64, device=postings.device)
    bounds, terms, impacts = (
        each.tolist() for each in (queries.indptr, queries.terms, queries.impacts)
    )
    rows, frames = postings.rows.tolist(), postings.frames.long()
    for q in range(n):
        for term, impact in zip(
            terms[bounds[q] : bounds[q + 1]], impacts[bounds[q] : bounds[q + 1]], strict=True
        ):
            row = rows[term] if term < len(rows) else -1
            if row < 0:
                continue
            lengths = postings.lengths[row, frames]
            read[q] += lengths.sum()
            if row < postings.dense:
                scores[q] += impact * postings.columns[row, frames].to(torch.int32)
                continue
            firsts = postings.starts[row, frames].tolist()
            for b, (first, length) in enumerate(zip(firsts, lengths.tolist(), strict=True)):
                start = first * UNIT_POSTINGS
                span = slice(start, start + length)
                scores[q, b].index_add_(
                    0,
                    postings.locals[span].to(torch.int64),
                    impact * postings.impacts[span].to(torch.int32),
                )
    if mask is not None:
        kept = (mask != 0).view(-1, blocks, postings.block_size)
        scores[:, :, : postings.block_size] *= kept.to(torch.int32)
    best = scores.view(n, blocks * (width // TILE_DOCUMENTS), TILE_DOCUMENTS).amax(dim=2).long()
    numbers = LAST_ARRIVAL - torch.arange(best.shape[1], device=best.device)
    bins = (best.to(torch.float32).view(torch.int32) >> BIN_SHIFT) - FIRST_BIN
    histogram = torch.zeros((n, SCORE_BINS), dtype=torch.int32, device=best.device)
    histogram.scatter_add_(1, bins.clamp(min=0).long(), (best > 0).to(torch.int32))
    return BlockScores(
        scores,
        torch.where(best > 0, (best << 32) | numbers, 0),
        histogram,
        (scores > 0).sum(dim=(1, 2)),
        read,
        torch.zeros(n, dtype=torch.int32, device=best.device),
    )
