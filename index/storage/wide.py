"""Impacts above 255 as two postings of one byte each, and queries that read both.

A posting holds one byte, 1 to 255. An impact above that is ``high * 255 + low`` with both in that
range: low is under its term t, high under term ``vocabulary_size + t``. A query asks t with its
impact q and ``vocabulary_size + t`` with 255 q, so the two products sum to q times the impact. The
scoring kernels need not know, and a term's own postings are still its documents.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...core.vectors import MAX_DOCUMENT_IMPACT, ImpactBatch

ONE_BYTE = 255


def highest_impact(vocabulary_size: int) -> int:
    """Return the largest document impact: 65,280, or 255 where term ids leave no room for more."""
    return MAX_DOCUMENT_IMPACT if 2 * vocabulary_size <= 2**31 else ONE_BYTE


def split_documents(
    owners: NDArray[np.int64],
    terms: NDArray[np.int32],
    impacts: NDArray[np.uint16],
    vocabulary_size: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]:
    """Return the postings of documents: the low bytes, then the high bytes.

    Args:
        owners: the document of each entry.
        terms, impacts: of each entry.
        vocabulary_size: terms are below it.
    """
    highs = (impacts - 1) // ONE_BYTE
    high = np.flatnonzero(highs)
    return (
        np.concatenate([owners, owners[high]]),
        np.concatenate([terms, terms[high] + np.int32(vocabulary_size)]),
        np.concatenate([impacts - ONE_BYTE * highs, highs[high]]).astype(np.uint8),
    )


def split_queries(queries: ImpactBatch, vocabulary_size: int) -> ImpactBatch:
    """Return queries that ask for the low byte and the high byte of each of their terms."""
    lengths = np.diff(queries.indptr)
    low = np.arange(len(queries.terms)) + np.repeat(queries.indptr[:-1], lengths)
    high = low + np.repeat(lengths, lengths)
    terms = np.empty(2 * len(queries.terms), dtype=np.int32)
    impacts = np.empty_like(terms)
    terms[low], terms[high] = queries.terms, queries.terms + np.int32(vocabulary_size)
    impacts[low], impacts[high] = queries.impacts, ONE_BYTE * queries.impacts
    return ImpactBatch(2 * queries.indptr, terms, impacts, queries.scales)
