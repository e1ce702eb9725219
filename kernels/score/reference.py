"""score: every query against every document of one block, exact in int32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...core.vectors import MAX_QUERY_IMPACT, MAX_QUERY_TERMS, ImpactBatch

MAX_BLOCK_DOCUMENTS = 1 << 14


@dataclass(frozen=True)
class Block:
    """Up to 2^14 consecutive documents, their postings grouped by term.

    Attributes:
        terms: int32 [T], strictly ascending: the terms that occur in the block.
        indptr: int64 [T + 1], term row t owns ``locals[indptr[t]:indptr[t + 1]]``; need not start
            at 0.
        locals: uint16 [P], document numbers within the block, strictly ascending inside a term.
        impacts: uint8 [P], 1 to 255.
        documents: how many documents the block holds, 0 to 16,384.
    """

    terms: NDArray[np.int32]
    indptr: NDArray[np.int64]
    locals: NDArray[np.uint16]
    impacts: NDArray[np.uint8]
    documents: int

    def check(self) -> None:
        """Check every invariant above.

        Raises:
            InputError: naming the array that breaks it.
        """
        for name, dtype in (
            ("terms", np.int32),
            ("indptr", np.int64),
            ("locals", np.uint16),
            ("impacts", np.uint8),
        ):
            array = getattr(self, name)
            if array.ndim != 1 or array.dtype != dtype:
                raise InputError(
                    f"block: {name} must be {np.dtype(dtype)} [n], is {array.dtype} "
                    f"{list(array.shape)}"
                )
        if not 0 <= self.documents <= MAX_BLOCK_DOCUMENTS:
            raise InputError(
                f"block: documents is {self.documents}, allowed 0 to {MAX_BLOCK_DOCUMENTS}"
            )
        if (self.terms[:1] < 0).any() or (np.diff(self.terms) <= 0).any():
            raise InputError("block: terms must be >= 0 and strictly ascending")
        if (
            len(self.indptr) != len(self.terms) + 1
            or self.indptr[0] < 0
            or (np.diff(self.indptr) < 0).any()
        ):
            raise InputError("block: indptr must ascend and have one entry more than terms")
        if self.indptr[-1] > len(self.locals) or len(self.locals) != len(self.impacts):
            raise InputError("block: indptr, locals and impacts do not agree in length")
        rows = slice(self.indptr[0], self.indptr[-1])
        owners = np.repeat(np.arange(len(self.terms)), np.diff(self.indptr))
        places = owners * (MAX_BLOCK_DOCUMENTS << 2) + self.locals[rows]
        if (np.diff(places) <= 0).any():
            raise InputError("block: locals must ascend strictly inside a term")
        if (self.locals[rows] >= self.documents).any():
            raise InputError(f"block: a local number is >= the block's {self.documents} documents")
        if (self.impacts[rows] == 0).any():
            raise InputError("block: an impact is 0, allowed 1 to 255")


@dataclass(frozen=True)
class Scores:
    """What ``score`` gives back for n queries.

    Attributes:
        scores: int32 [n, documents], 0 where no term is shared.
        matched: int64 [n], documents that share at least one term.
        postings: int64 [n], postings read.
    """

    scores: NDArray[np.int32]
    matched: NDArray[np.int64]
    postings: NDArray[np.int64]


def check_queries(queries: ImpactBatch, vocabulary_size: int | None = None) -> None:
    """Check what every scorer relies on: int32 sums that cannot overflow, terms that are there
    once.

    Raises:
        InputError: naming the query, the value and the bound.
    """
    lengths = np.diff(queries.indptr)
    if len(queries.indptr) < 1 or queries.indptr[0] != 0 or (lengths < 0).any():
        raise InputError("queries: indptr must start at 0 and ascend")
    if not len(queries.terms) == len(queries.impacts) == queries.indptr[-1]:
        raise InputError(
            f"queries: indptr ends at {queries.indptr[-1]}, "
            f"but there are {len(queries.terms)} terms and {len(queries.impacts)} impacts"
        )
    if queries.terms.dtype != np.int32 or queries.impacts.dtype != np.int32:
        raise InputError(
            f"queries: terms and impacts must be int32, are {queries.terms.dtype} and "
            f"{queries.impacts.dtype}"
        )
    if (lengths > MAX_QUERY_TERMS).any():
        i = int(lengths.argmax())
        raise InputError(f"query {i}: {lengths[i]} terms, allowed at most {MAX_QUERY_TERMS}")
    if not len(queries.terms):
        return

    def owner(entry: np.integer) -> int:
        return int(np.searchsorted(queries.indptr, entry, side="right")) - 1

    low, high = queries.impacts.argmin(), queries.impacts.argmax()
    for entry in (low, high):
        if not 1 <= queries.impacts[entry] <= MAX_QUERY_IMPACT:
            raise InputError(
                f"query {owner(entry)}: impact of term {queries.terms[entry]} is "
                f"{queries.impacts[entry]}, "
                f"allowed 1 to {MAX_QUERY_IMPACT}"
            )
    highest = 2**31 - 1 if vocabulary_size is None else vocabulary_size - 1
    for entry in (queries.terms.argmin(), queries.terms.argmax()):
        if not 0 <= queries.terms[entry] <= highest:
            raise InputError(
                f"query {owner(entry)}: term {queries.terms[entry]}, allowed 0 to {highest}"
            )
    falls = np.flatnonzero(np.diff(queries.terms) <= 0) + 1
    if falls.size and (inside := falls[~np.isin(falls, queries.indptr)]).size:
        raise InputError(
            f"query {owner(inside[0])}: terms must ascend strictly, {queries.terms[inside[0]]} "
            f"follows {queries.terms[inside[0] - 1]}"
        )


def score(queries: ImpactBatch, block: Block) -> Scores:
    """``scores[q, d] = sum over shared terms of query impact * document impact``.

    Integers add to the same sum in any order, so every backend gives these very numbers.

    Args:
        queries: n vectors of at most 2,048 terms with impacts 1 to 4,095.
        block: the documents.

    Returns:
        scores int32 [n, block.documents], matched int64 [n], postings read int64 [n].

    Raises:
        InputError: an argument that breaks its rules.
    """
    check_queries(queries)
    block.check()
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
    return Scores(sums.astype(np.int32), (sums > 0).sum(axis=1, dtype=np.int64), postings)
