"""The plan on one device: encode, quantize, score and select without leaving it.

The host synchronizes once per batch, for one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ..core.document import TextKind
from ..core.vectors import ImpactBatch
from ..index import Index, SearchResult, Selection
from ..index.read.device import DeviceSearcher
from ..index.read.searcher import Wanted, always
from ..kernels.impacts import quantize_queries
from ..kernels.runtime.transfer import Clock, fetch, upload
from ..kernels.score.search import Found
from ..kernels.select.types import check_k
from ..model import Encoder
from ..model.tokens import Encoded, Tokens


@dataclass(frozen=True)
class Ranked:
    """Texts that were encoded and ranked.

    Attributes:
        encoded: their vectors.
        queries: the vectors as impacts.
        result: their hits.
    """

    encoded: Encoded
    queries: ImpactBatch
    result: SearchResult


def rank(
    encoder: Encoder,
    index: Index,
    tokens: Tokens,
    kind: TextKind,
    k: int,
    factors: Tensor | None = None,
    masks: Sequence[tuple[Selection | None, Sequence[int]]] = (),
    wanted: Wanted = always,
) -> Ranked:
    """Encode texts and find the ``k`` best documents of each; the same as doing so one after the
    other.

    Args:
        encoder: on the device of the index.
        index: with ``tensors``.
        tokens: of the texts.
        kind: which side the texts stand on.
        k: 1 to 10,000.
        factors: of the query modifier, float32 [V] on the device; None where there is none.
        masks: the documents that may be hits, with the rows of the texts that they are for, every
            row once; empty for all documents.
        wanted: as for :meth:`csplade.index.Searcher.search`.

    Raises:
        InputError: ``k`` out of range.
    """
    assert index.tensors is not None
    check_k(k)
    made = encoder.encode_tensors(tokens, kind)
    clock = Clock(index.tensors.device)
    weighed = made.weights
    if factors is not None:
        weighed = weighed * factors[made.terms.clamp(min=0)]  # padding has weight 0
    asked, steps = quantize_queries(weighed, index.manifest.max_impact)
    found = _search(index.tensors, (made.terms, asked, made.counts), k, masks, clock, wanted)
    (
        terms, weights, counts, positive, nonfinite, impacts, scales, keys, hits, matched, postings
    ) = fetch(
        made.terms, made.weights, made.counts, made.positive, made.nonfinite, asked, steps,
        found.keys, found.counts, found.matched, found.postings,
    )  # fmt: skip
    encoded = made.fetched(tokens, terms, weights, counts, positive, nonfinite)
    vectors = encoded.vectors
    queries = ImpactBatch(vectors.indptr, vectors.terms, impacts[terms >= 0], scales)
    result = index.tensors.result(keys, hits, matched, postings, clock=clock)
    return Ranked(encoded, queries, result)


def _search(
    searcher: DeviceSearcher,
    padded: tuple[Tensor, Tensor, Tensor],
    k: int,
    masks: Sequence[tuple[Selection | None, Sequence[int]]],
    clock: Clock,
    wanted: Wanted,
) -> Found:
    """Search with the terms, impacts and counts of padded rows, those of each mask together."""
    if len(masks) <= 1:
        mask = masks[0][0] if masks else None
        queries = searcher.queries_from_rows(*padded)
        return searcher.search_tensors(queries, k, clock, mask, wanted)
    parts, places = [], []
    for mask, rows in masks:
        chosen = upload(np.array(rows), searcher.device)
        queries = searcher.queries_from_rows(*(one[chosen] for one in padded))
        parts.append(searcher.search_tensors(queries, k, clock, mask, _of_rows(wanted, rows)))
        places.append(chosen)
    order = torch.cat(places).argsort()
    return Found(
        *(torch.cat([getattr(one, field.name) for one in parts])[order] for field in fields(Found))
    )


def _of_rows(wanted: Wanted, rows: Sequence[int]) -> Wanted:
    return lambda i: wanted(rows[i])
