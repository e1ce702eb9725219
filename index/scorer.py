"""The CPU scorer: numba, term at a time inside one block at a time, selection fused, exact.

A block's int32 accumulators (64 KB) stay in the core's own cache while its postings stream by, and the k-th
best score so far decides which documents are looked at again. Kernels hold no GIL and touch no shared state.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .format import Segment

# Documents looked at together when a block is scanned: one maximum decides about all of them.
CHUNK = 64
# Buckets of the histogram that finds the k-th best score.
BUCKETS = 2048
COUNT, THRESHOLD, MATCHED, POSTINGS = range(4)


def compiled(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit with the GIL released and the machine code kept on disk where possible."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:  # numba found no place for its cache: compile anew in each process
            return numba.njit(signature, nogil=True)(function)

    return decorate


@compiled("int64(int32[::1], int64[::1], int64, int64)")
def keep_best(scores, ordinals, count, k):  # type: ignore[no-untyped-def]
    """Keep the k best of ``count > k`` candidates in place, order kept; returns the k-th best score.

    Candidates stand in ascending ordinal, so among equal scores the first ones are the ones to keep. The k-th
    best score is found by histograms of ever finer buckets.
    """
    histogram = np.empty(BUCKETS, np.int64)
    low, high = scores[0], scores[0]
    for i in range(count):
        low, high = min(low, scores[i]), max(high, scores[i])
    low, high = np.int64(low), np.int64(high)
    above = 0
    while high > low:
        shift = 0
        while (high - low) >> shift >= BUCKETS:
            shift += 1
        histogram[:] = 0
        for i in range(count):
            score = np.int64(scores[i])
            if low <= score <= high:
                histogram[(score - low) >> shift] += 1
        bucket = BUCKETS - 1
        while above + histogram[bucket] < k:
            above += histogram[bucket]
            bucket -= 1
        low += bucket << shift
        high = min(high, low + (1 << shift) - 1)
    ties = k - above
    kept = 0
    for i in range(count):
        score = np.int64(scores[i])
        if score > low or (score == low and ties > 0):
            ties -= score == low
            scores[kept] = scores[i]
            ordinals[kept] = ordinals[i]
            kept += 1
    return low


@compiled(
    "void(int64, int64, int64, int64, int32[::1], int64[::1], int32[::1], int64[::1], uint16[::1],"
    " uint8[::1], int32[::1], int32[::1], int64, uint8[::1], int32[::1], int32[::1], int64[::1], int64[::1])"
)
def score_blocks(  # type: ignore[no-untyped-def]
    first_block, last_block, block_size, first_ordinal,
    block_documents, block_term_indptr, terms, indptr, locals_, impacts,
    query_terms, query_impacts, k, alive,
    sums, scores, ordinals, state,
):  # fmt: skip
    """Score one query against some blocks of a segment, adding to the candidates and counts it was handed.

    ``sums`` is all zero on entry and on return. ``alive`` is empty or has a byte per document of the segment.
    ``scores`` and ``ordinals`` have room for 2 k + block_size candidates; ``state`` is count, threshold,
    matched, postings. Only scores above the threshold can enter: an equal one comes later and loses its tie.
    """
    count, threshold, matched, postings = state[COUNT], state[THRESHOLD], state[MATCHED], state[POSTINGS]
    for block in range(first_block, last_block):
        row, last_row = block_term_indptr[block], block_term_indptr[block + 1]
        for q in range(len(query_terms)):
            term = query_terms[q]
            end = last_row
            while row < end:  # the first row whose term is not below the query's
                middle = (row + end) >> 1
                if terms[middle] < term:
                    row = middle + 1
                else:
                    end = middle
            if row == last_row:
                break
            if terms[row] != term:
                continue
            impact = query_impacts[q]
            places = locals_[indptr[row] : indptr[row + 1]]
            values = impacts[indptr[row] : indptr[row + 1]]
            for p in range(len(places)):
                sums[places[p]] += impact * np.int32(values[p])
            postings += len(places)

        documents = np.int64(block_documents[block])
        if len(alive):
            for d in range(documents):
                sums[d] *= np.int32(alive[block * block_size + d])
        base = first_ordinal + block * block_size
        for start in range(0, documents, CHUNK):
            chunk = sums[start : start + CHUNK]
            best = np.int32(0)
            for d in range(CHUNK):
                best = max(best, chunk[d])
                matched += chunk[d] > 0
            if best > threshold:
                for d in range(CHUNK):
                    scores[count] = chunk[d]
                    ordinals[count] = base + start + d
                    count += chunk[d] > threshold
            chunk[:] = 0
        if count >= 2 * k:
            threshold = keep_best(scores, ordinals, count, k)
            count = k
    state[COUNT], state[THRESHOLD], state[MATCHED], state[POSTINGS] = count, threshold, matched, postings


class Workspace(threading.local):
    """Buffers of one thread, kept from query to query."""

    def __init__(self) -> None:
        self.sums = np.zeros(0, dtype=np.int32)
        self.scores = np.empty(0, dtype=np.int32)
        self.ordinals = np.empty(0, dtype=np.int64)
        self.state = np.zeros(4, dtype=np.int64)

    def prepare(self, block_size: int, k: int) -> None:
        """Make room for blocks of this size and this k, and start a new query."""
        width = -(-block_size // CHUNK) * CHUNK
        if len(self.sums) < width:
            self.sums = np.zeros(width, dtype=np.int32)
        if len(self.scores) < 2 * k + width + 1:
            self.scores = np.empty(2 * k + width + 1, dtype=np.int32)
            self.ordinals = np.empty(2 * k + width + 1, dtype=np.int64)
        self.state[:] = 0


def score_segments(
    parts: list[tuple[Segment, int, int, int, NDArray[np.uint8]]],
    block_size: int,
    terms: NDArray[np.int32],
    impacts: NDArray[np.int32],
    k: int,
    workspace: Workspace,
) -> tuple[NDArray[np.int32], NDArray[np.int64], int, int]:
    """Score one query against block ranges of one shard, given in ascending ordinals.

    Args:
        parts: (segment, its first ordinal, first block, last block, alive bytes of the segment or none).
        block_size: documents of a full block.
        terms, impacts: the query, int32 each.
        k: how many of the best must be among the candidates.
        workspace: this thread's buffers.

    Returns:
        scores int32 and ordinals int64 of at least the k best (all, if fewer match), ordinals ascending;
        how many documents matched; postings read.
    """
    workspace.prepare(block_size, k)
    for segment, first_ordinal, first, last, alive in parts:
        score_blocks(
            first, last, block_size, first_ordinal,
            segment.block_documents, segment.block_term_indptr, segment.terms, segment.indptr,
            segment.locals, segment.impacts,
            terms, impacts, k, alive,
            workspace.sums, workspace.scores, workspace.ordinals, workspace.state,
        )  # fmt: skip
    count, _, matched, postings = workspace.state.tolist()
    return workspace.scores[:count].copy(), workspace.ordinals[:count].copy(), matched, postings
