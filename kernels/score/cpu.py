"""Score on the CPU with numba: term at a time inside one block at a time, selection fused, exact.

The int32 sums of a block (64 KB) stay in the cache of one core while its postings stream by, and
the k-th best score so far decides which documents are looked at again. Frequent terms are added
from dense columns, see :mod:`.columns`. Kernels release the GIL and share no state.

A candidate is one int64 key that sorts as hits rank: the score above 32 bits that hold 2^32 - 1
minus the arrival number (ordinal * shards + shard), so equal scores are ordered by ordinal, then by
shard.
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
from .types import HostPostings

# Documents whose maximum decides whether a scan looks closer, first at a chunk, then at a piece.
CHUNK_DOCUMENTS = 64
PIECE_DOCUMENTS = 8
# Documents whose sums stay in the first-level cache while columns are added, and columns that are
# added at once: sums are then loaded and stored once for all of them.
TILE = 1024
COLUMNS_AT_ONCE = 4
# Buckets of the histogram that finds the k-th best score.
BUCKETS = 2048
# Postings of the next term that are prefetched while those of one term are added, and postings per
# cache line: the hardware prefetcher detects a run of postings only after it has begun.
PREFETCH_POSTINGS = 256
LINE_POSTINGS = 32
COUNT, THRESHOLD, MATCHED, POSTINGS = range(4)
# Blocks between two questions whether the answer is still wanted: some 10 ms of a long query.
BLOCKS_AT_ONCE = 64


def compiled(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """Return numba.njit with the GIL released and the machine code cached on disk if possible."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:  # no writable folder for the cache: each process compiles
            return numba.njit(signature, nogil=True)(function)

    return decorate


@intrinsic
def prefetch(context: Any, array: Any, place: Any) -> Any:
    """Prefetch the cache line of ``array[place]``; a place outside of the array is harmless."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        )
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        # A read (0) with high temporal locality (3) of data (1).
        builder.call(function, [address, *(ir.Constant(number, value) for value in (0, 3, 1))])
        return context.get_dummy_value()

    return numba.types.void(array, numba.types.int64), generate


@compiled("int64(int64[::1], int64, int64)")
def keep_best(keys, count, k):  # type: ignore[no-untyped-def]
    """Keep the k best of ``count > k`` candidates in place and in order; return the k-th score.

    Candidates are in ascending arrival, so of equal scores the first ones are kept. Histograms of
    ever finer buckets find the k-th best score.
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


@compiled("boolean(uint8[::1], int64, int64)")
def any_set(mask, first, last):  # type: ignore[no-untyped-def]
    """Return whether a byte of ``mask[first:last]`` is not 0."""
    for start in range(first, last, CHUNK_DOCUMENTS):
        some = np.int32(0)
        for d in range(start, min(start + CHUNK_DOCUMENTS, last)):
            some = np.int32(some | np.int32(mask[d]))
        if some:
            return True
    return False


@compiled(
    "void(int64, int64, int64, int64, int64, int32[::1], int64[::1], int32[::1], int64[::1], "
    "uint16[::1],"
    " uint8[::1], int32[::1], uint8[:, ::1], int32[::1], int32[::1], int64, uint8[::1],"
    " int32[::1], int64[:, ::1], int64[:, ::1], int64[::1], int64[::1])"
)
def score_blocks(  # type: ignore[no-untyped-def]
    first_block, last_block, block_size, first_key, key_step,
    block_documents, block_term_indptr, terms, indptr, locals_, impacts, places, columns,
    query_terms, query_impacts, k, mask,
    sums, runs, chosen, keys, state,
):  # fmt: skip
    """Score one query against some blocks of a segment; add to ``keys`` and ``state``.

    ``first_key`` is the low half of the key of the first document of the segment, ``key_step`` less
    with each next one. ``places`` and ``columns`` are those of the segment, see :mod:`.columns`.
    ``sums`` is all zero on entry and on return. ``mask`` is empty or has a byte per document of the
    segment. ``runs`` and ``chosen`` hold every query term, ``keys`` 2 k + block_size candidates;
    ``state`` is count, threshold, matched, postings. Only scores above the threshold become
    candidates: an equal one arrives later and loses the tie.
    """
    count, threshold, matched, postings = (
        state[COUNT],
        state[THRESHOLD],
        state[MATCHED],
        state[POSTINGS],
    )
    for block in range(first_block, last_block):
        documents = np.int64(block_documents[block])
        start = block * block_size
        if len(mask) and not any_set(mask, start, start + documents):
            continue
        row, last_row = block_term_indptr[block], block_term_indptr[block + 1]
        found = dense = 0
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
                postings += indptr[row + 1] - indptr[row]
                if places[row] >= 0:
                    chosen[dense, 0], chosen[dense, 1] = places[row], query_impacts[q]
                    dense += 1
                else:
                    runs[found, 0], runs[found, 1], runs[found, 2] = (
                        indptr[row],
                        indptr[row + 1],
                        query_impacts[q],
                    )
                    found += 1
        if not found and not dense:
            continue
        for run in range(found):
            if run + 1 < found:
                first = runs[run + 1, 0]
                for p in range(
                    first, min(first + PREFETCH_POSTINGS, runs[run + 1, 1]), LINE_POSTINGS
                ):
                    prefetch(locals_, p)  # type: ignore[call-arg]
                    prefetch(impacts, p)
            impact = np.int32(runs[run, 2])
            owners = locals_[runs[run, 0] : runs[run, 1]]
            values = impacts[runs[run, 0] : runs[run, 1]]
            for p in range(len(owners)):
                sums[owners[p]] += impact * np.int32(values[p])

        while dense % COLUMNS_AT_ONCE:  # fill up with a column that adds nothing
            chosen[dense, 0], chosen[dense, 1] = chosen[0, 0], 0
            dense += 1
        for start in range(0, documents if dense else 0, TILE):
            tile = sums[start : start + TILE]
            for first in range(0, dense, COLUMNS_AT_ONCE):
                one = columns[chosen[first, 0], start : start + TILE]
                two = columns[chosen[first + 1, 0], start : start + TILE]
                three = columns[chosen[first + 2, 0], start : start + TILE]
                four = columns[chosen[first + 3, 0], start : start + TILE]
                by_one, by_two = np.int32(chosen[first, 1]), np.int32(chosen[first + 1, 1])
                by_three, by_four = np.int32(chosen[first + 2, 1]), np.int32(chosen[first + 3, 1])
                # numba widens products to int64 unless each step is an int32.
                for d in range(TILE):
                    left = np.int32(tile[d] + np.int32(by_one * np.int32(one[d])))
                    left = np.int32(left + np.int32(by_two * np.int32(two[d])))
                    right = np.int32(by_three * np.int32(three[d]))
                    tile[d] = np.int32(
                        left + np.int32(right + np.int32(by_four * np.int32(four[d])))
                    )
        # Fixed lengths and int32 sums let the compiler vectorize the loops over 64 and 8.
        for start in range(0, documents, CHUNK_DOCUMENTS):
            chunk = sums[start : start + CHUNK_DOCUMENTS]
            best = hits = np.int32(0)
            if len(mask):
                inside = mask[block * block_size + start : block * block_size + documents]
                if len(inside) >= CHUNK_DOCUMENTS:
                    for d in range(CHUNK_DOCUMENTS):
                        chunk[d] = chunk[d] if inside[d] else np.int32(0)
                else:
                    for d in range(len(inside)):
                        chunk[d] = chunk[d] if inside[d] else np.int32(0)
            for d in range(CHUNK_DOCUMENTS):
                best = max(best, chunk[d])
                hits = np.int32(hits + np.int32(chunk[d] > 0))
            matched += hits
            if best > threshold:
                for first in range(0, CHUNK_DOCUMENTS, PIECE_DOCUMENTS):
                    piece = chunk[first : first + PIECE_DOCUMENTS]
                    best = np.int32(0)
                    for d in range(PIECE_DOCUMENTS):
                        best = max(best, piece[d])
                    if best > threshold:
                        low = first_key - (block * block_size + start + first) * key_step
                        for d in range(PIECE_DOCUMENTS):
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
    """Keep the buffers of one thread from query to query."""

    def __init__(self) -> None:
        self.sums = np.zeros(0, dtype=np.int32)
        # An index with impacts of two bytes asks two terms for each of the query.
        self.runs = np.empty((2 * MAX_QUERY_TERMS, 3), dtype=np.int64)
        self.chosen = np.empty((2 * MAX_QUERY_TERMS + COLUMNS_AT_ONCE, 2), dtype=np.int64)
        self.keys = np.empty(0, dtype=np.int64)
        self.state = np.zeros(4, dtype=np.int64)

    def prepare(self, block_size: int, k: int) -> None:
        """Grow the buffers for blocks of this size and this k, and start a new query."""
        width = -(-block_size // TILE) * TILE
        if len(self.sums) < width:
            self.sums = np.zeros(width, dtype=np.int32)
        if len(self.keys) < 2 * k + width:
            self.keys = np.empty(2 * k + width, dtype=np.int64)
        self.state[:] = 0


def score_segments(
    parts: Sequence[tuple[HostPostings, int, int, int, NDArray[np.uint8]]],
    block_size: int,
    shard: int,
    shards: int,
    terms: NDArray[np.int32],
    impacts: NDArray[np.int32],
    k: int,
    workspace: Workspace,
    wanted: Callable[[], bool] = lambda: True,
) -> tuple[NDArray[np.int64], int, int]:
    """Score one query against block ranges of one shard, in ascending ordinals.

    Args:
        parts: (segment, its first ordinal, first block, block after the last, mask). The mask is
            uint8, a byte per document of the segment, 0 for documents to exclude; empty keeps all.
        block_size: documents of a full block.
        shard, shards: number of the shard and of all shards, for the keys.
        terms, impacts: int32, the query; checked already.
        k: how many of the best must be among the candidates.
        workspace: buffers of this thread.
        wanted: asked before every run of blocks; the search ends at the first False.

    Returns:
        keys int64 of at least the k best (all, if fewer match), in unspecified order; documents
        that matched; postings read. Of the blocks until then if the search ended early.
    """
    workspace.prepare(block_size, k)
    runs = (
        (segment, first_ordinal, start, min(start + BLOCKS_AT_ONCE, last), mask)
        for segment, first_ordinal, first, last, mask in parts
        for start in range(first, last, BLOCKS_AT_ONCE)
    )
    for segment, first_ordinal, first, last, mask in runs:
        if not wanted():
            break
        score_blocks(
            first, last, block_size, LAST_ARRIVAL - (first_ordinal * shards + shard), shards,
            segment.block_documents, segment.block_term_indptr, segment.terms, segment.indptr,
            segment.locals, segment.impacts, segment.columns.places, segment.columns.impacts,
            terms, impacts, k, mask,
            workspace.sums, workspace.runs, workspace.chosen, workspace.keys, workspace.state,
        )  # fmt: skip
    count, _, matched, postings = workspace.state.tolist()
    return workspace.keys[:count].copy(), matched, postings
