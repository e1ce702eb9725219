"""Make blocks: of stored vectors, or of the live documents of other blocks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ...kernels.score.types import Block
from .documents import Rows
from .segment import Segment
from .wide import split_documents

# A posting packed into an integer that sorts by term, then by document: term, document, impact.
TERM_SHIFT, DOCUMENT_SHIFT = 24, 8


def make_block(rows: Rows, vocabulary_size: int) -> Block:
    """Return the block of these documents, transposed by one sort of packed integers."""
    documents = len(rows.indptr) - 1
    owners = np.repeat(np.arange(documents), np.diff(rows.indptr))
    return _sorted(
        _packed(*split_documents(owners, rows.terms, rows.impacts, vocabulary_size)), documents
    )


def regroup(parts: Iterable[tuple[Segment, NDArray[np.uint8]]], block_size: int) -> list[Block]:
    """Return the live documents of segments as full blocks (the last one may be short), in order.

    Args:
        parts: segments, each with a byte per document, 0 for those to leave out; empty keeps all.
        block_size: documents of a full block.
    """
    blocks: list[Block] = []
    pending: list[NDArray[np.int64]] = []  # of the block that is being filled
    filled = 0
    for segment, live in parts:
        first = 0
        for number in range(len(segment)):
            block = segment.block(number)
            kept = live[first : first + block.documents].astype(bool)
            first += block.documents
            if not filled and block.documents == block_size and (not len(live) or kept.all()):
                blocks.append(_copied(block))
                continue
            span = slice(block.indptr[0], block.indptr[-1])
            terms = np.repeat(block.terms, np.diff(block.indptr))
            owners, impacts = block.locals[span].astype(np.int64), block.impacts[span]
            documents = block.documents
            if len(live) and not kept.all():
                chosen = kept[owners]
                owners = (np.cumsum(kept) - 1)[owners[chosen]]
                terms, impacts, documents = terms[chosen], impacts[chosen], int(kept.sum())
            keys = _packed(owners + filled, terms, impacts)
            filled += documents
            if filled < block_size:
                pending.append(keys)
                continue
            inside = owners + filled - documents < block_size
            blocks.append(_sorted(np.concatenate([*pending, keys[inside]]), block_size))
            filled -= block_size
            pending = [keys[~inside] - (block_size << DOCUMENT_SHIFT)]
    if filled:
        blocks.append(_sorted(np.concatenate(pending), filled))
    return blocks


def _packed(
    owners: NDArray[np.int64], terms: NDArray[np.int32], impacts: NDArray[np.uint8]
) -> NDArray[np.int64]:
    keys = terms.astype(np.int64) << TERM_SHIFT
    keys |= owners << DOCUMENT_SHIFT
    keys |= impacts
    return keys


def _sorted(keys: NDArray[np.int64], documents: int) -> Block:
    """Return the block of packed postings; sorts them in place."""
    keys.sort()
    terms = (keys >> TERM_SHIFT).astype(np.int32)
    starts = np.flatnonzero(np.diff(terms, prepend=np.int32(-1)))
    return Block(
        terms[starts],
        np.append(starts, len(keys)).astype(np.int64),
        (keys >> DOCUMENT_SHIFT).astype(np.uint16),
        keys.astype(np.uint8),
        documents,
    )


def _copied(block: Block) -> Block:
    """Return a block with postings of its own, from 0."""
    span = slice(block.indptr[0], block.indptr[-1])
    return Block(
        block.terms.copy(),
        block.indptr - block.indptr[0],
        block.locals[span].copy(),
        block.impacts[span].copy(),
        block.documents,
    )
