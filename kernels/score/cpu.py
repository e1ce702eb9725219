"""The CPU scorer: numba, term at a time inside one block at a time, selection fused, exact.

A block's int32 accumulators (64 KB) stay in the core's own cache while its postings stream by, and
the k-th best score so far decides which documents are looked at again. Kernels hold no GIL and
touch no shared state.

A candidate is one int64 key that sorts as hits rank: the score above 32 bits that hold 2^32 - 1
minus the arrival number (ordinal * shards + shard), so equal scores go by ordinal, then by shard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic
from numpy.typing import NDArray

from ...core.ranking_key import LAST_ARRIVAL
from ...core.vectors import MAX_QUERY_TERMS

# Documents looked at together when a block is scanned: one maximum decides about a chunk, then a
# piece of it.
CHUNK = 64
PIECE = 8
# Buckets of the histogram that finds the k-th best score.
BUCKETS = 2048
# While one term's postings are added up, the first AHEAD of the next term's are fetched, a LINE at
# a time: the hardware's own prefetcher sees a run of postings only after it has begun.
AHEAD = 256
LINE = 32
COUNT, THRESHOLD, MATCHED, POSTINGS = range(4)


def compiled(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit with the GIL released and the machine code kept on disk where possible."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:  # numba found no place for its cache: compile anew in each process
            return numba.njit(signature, nogil=True)(function)

    return decorate


@intrinsic
def prefetch(context: Any, array: Any, place: Any) -> Any:
    """Ask for the cache line of ``array[place]``; a place outside of the array does no harm."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        )
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        # To be read (0), kept near the core (3), as data (1).
        builder.call(function, [address, *(ir.Constant(number, value) for value in (0, 3, 1))])
        return context.get_dummy_value()

    return numba.types.void(array, numba.types.int64), generate


@compiled("int64(int64[::1], int64, int64)")
def keep_best(keys, count, k):  # type: ignore[no-untyped-def]
    """Keep the k best of ``count > k`` candidates in place, order kept; returns the k-th best
    score.

    Candidates stand in ascending arrival, so among equal scores the first ones are the ones to
    keep. The k-th best score is found by histograms of ever finer buckets.
    """
    histogram = np.empty(BUCKETS, np.int64)
    low, high = keys[0] >> 32, keys[0] >> 32
    for i in range(count):
        low, high = min(low, keys[i] >> 32), max(high, keys[i] >> 32)
    above = 0
    while high > low:
        shift = 0
        while (high - low) >> shift >= BUCKETS:
            shift += 1
        histogram[:] = 0
        for i in range(count):
            score = keys[i] >> 32
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
        score = keys[i] >> 32
        if score > low or (score == low and ties > 0):
            ties -= score == low
            keys[kept] = keys[i]
            kept += 1
    return low


@compiled(
    "void(int64, int64, int64, int64, int64, int32[::1], int64[::1], int32[::1], int64[::1], "
    "uint16[::1],"
    " uint8[::1], int32[::1], int32[::1], int64, uint8[::1],"
    " int32[::1], int64[:, ::1], int64[::1], int64[::1])"
)
def score_blocks(  # type: ignore[no-untyped-def]
    first_block, last_block, block_size, first_key, key_step,
    block_documents, block_term_indptr, terms, indptr, locals_, impacts,
    query_terms, query_impacts, k, alive,
    sums, runs, keys, state,
):  # fmt: skip
    """Score one query against some blocks of a segment, adding to the candidates and counts it was
    handed.

    ``first_key`` is the low half of the key of the segment's first document, ``key_step`` less with
    each next one. ``sums`` is all zero on entry and on return. ``alive`` is empty or has a byte per
    document of the segment. ``runs`` has room for every query term, ``keys`` for 2 k + block_size
    candidates; ``state`` is count, threshold, matched, postings. Only scores above the threshold
    can enter: an equal one comes later and loses its tie.
    """
    count, threshold, matched, postings = (
        state[COUNT],
        state[THRESHOLD],
        state[MATCHED],
        state[POSTINGS],
    )
    for block in range(first_block, last_block):
        row, last_row = block_term_indptr[block], block_term_indptr[block + 1]
        found = 0
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
            if terms[row] == term:
                runs[found, 0], runs[found, 1], runs[found, 2] = (
                    indptr[row],
                    indptr[row + 1],
                    query_impacts[q],
                )
                found += 1
        if not found:
            continue
        for run in range(found):
            if run + 1 < found:
                first = runs[run + 1, 0]
                for p in range(first, min(first + AHEAD, runs[run + 1, 1]), LINE):
                    prefetch(locals_, p)  # type: ignore[call-arg]
                    prefetch(impacts, p)
            impact = np.int32(runs[run, 2])
            places = locals_[runs[run, 0] : runs[run, 1]]
            values = impacts[runs[run, 0] : runs[run, 1]]
            for p in range(len(places)):
                sums[places[p]] += impact * np.int32(values[p])
            postings += len(places)

        documents = np.int64(block_documents[block])
        if len(alive):
            for d in range(documents):
                sums[d] *= np.int32(alive[block * block_size + d])
        # The fixed lengths and the int32 sums let the compiler turn the loops over 64 and 8 into
        # vector code.
        for start in range(0, documents, CHUNK):
            chunk = sums[start : start + CHUNK]
            best = hits = np.int32(0)
            for d in range(CHUNK):
                best = max(best, chunk[d])
                hits = np.int32(hits + np.int32(chunk[d] > 0))
            matched += hits
            if best > threshold:
                for first in range(0, CHUNK, PIECE):
                    piece = chunk[first : first + PIECE]
                    best = np.int32(0)
                    for d in range(PIECE):
                        best = max(best, piece[d])
                    if best > threshold:
                        low = first_key - (block * block_size + start + first) * key_step
                        for d in range(PIECE):
                            keys[count] = (np.int64(piece[d]) << 32) | (low - d * key_step)
                            count += piece[d] > threshold
            chunk[:] = 0
        if count >= 2 * k:
            threshold = keep_best(keys, count, k)
            count = k
    state[COUNT], state[THRESHOLD], state[MATCHED], state[POSTINGS] = (
        count,
        threshold,
        matched,
        postings,
    )


class Workspace(threading.local):
    """Buffers of one thread, kept from query to query."""

    def __init__(self) -> None:
        self.sums = np.zeros(0, dtype=np.int32)
        self.runs = np.empty((MAX_QUERY_TERMS, 3), dtype=np.int64)
        self.keys = np.empty(0, dtype=np.int64)
        self.state = np.zeros(4, dtype=np.int64)

    def prepare(self, block_size: int, k: int) -> None:
        """Make room for blocks of this size and this k, and start a new query."""
        width = -(-block_size // CHUNK) * CHUNK
        if len(self.sums) < width:
            self.sums = np.zeros(width, dtype=np.int32)
        if len(self.keys) < 2 * k + width:
            self.keys = np.empty(2 * k + width, dtype=np.int64)
        self.state[:] = 0


def score_segments(
    parts: Sequence[tuple[Any, int, int, int, NDArray[np.uint8]]],
    block_size: int,
    shard: int,
    shards: int,
    terms: NDArray[np.int32],
    impacts: NDArray[np.int32],
    k: int,
    workspace: Workspace,
) -> tuple[NDArray[np.int64], int, int]:
    """Score one query against block ranges of one shard, given in ascending ordinals.

    Args:
        parts: (segment, its first ordinal, first block, last block, alive bytes of the segment or
            none).
        block_size: documents of a full block.
        shard, shards: the shard's number and how many there are, for the keys.
        terms, impacts: the query, int32 each.
        k: how many of the best must be among the candidates.
        workspace: this thread's buffers.

    Returns:
        keys int64 of at least the k best (all, if fewer match), in no order to rely on; how many
        documents matched; postings read.
    """
    workspace.prepare(block_size, k)
    for segment, first_ordinal, first, last, alive in parts:
        score_blocks(
            first, last, block_size, LAST_ARRIVAL - (first_ordinal * shards + shard), shards,
            segment.block_documents, segment.block_term_indptr, segment.terms, segment.indptr,
            segment.locals, segment.impacts,
            terms, impacts, k, alive,
            workspace.sums, workspace.runs, workspace.keys, workspace.state,
        )  # fmt: skip
    count, _, matched, postings = workspace.state.tolist()
    return workspace.keys[:count].copy(), matched, postings
