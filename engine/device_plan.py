"""The plan on one device: encode, quantize, score and select without leaving it.

The host synchronizes once per batch, for one copy.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core.document import TextKind
from ..core.vectors import ImpactBatch
from ..index import Index, SearchResult
from ..kernels.impacts import quantize_queries
from ..kernels.runtime.transfer import Clock, fetch
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
    rows = index.tensors.queries_from_rows(made.terms, asked, made.counts)
    found = index.tensors.search_tensors(rows, k, clock)
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
