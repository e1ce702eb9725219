"""The plan on one device: encode, quantize, score and select without leaving it.

The host synchronizes once per batch. Where work can be recorded, a batch of queries that fits a
recorded size is two launches: one encodes it and leaves it quantized in the buffer that the other
one searches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.document import TextKind
from ..core.vectors import ImpactBatch
from ..index import SearchResult, Selection, Snapshot
from ..index.read.recorded import TERMS, SearchSize
from ..index.read.searcher import Wanted, always
from ..kernels.impacts import quantize_queries
from ..kernels.runtime.graph import Recorder
from ..kernels.runtime.transfer import Clock, fetch, upload, wait
from ..kernels.score.search import Found
from ..kernels.select.types import check_k
from ..model import Encoder
from ..model.recorded import RecordedEncodings, TextSize
from ..model.tensors import EncodedTensors, encoded
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


class DevicePlan:
    """Encode texts and rank documents for them on the device that encoder and index share.

    Args:
        encoder: on the first device of the index.
        index: with ``tensors``.
        factors: of the query modifier, float32 [V] on the device; None where there is none.
    """

    def __init__(self, encoder: Encoder, index: Snapshot, factors: Tensor | None = None) -> None:
        assert index.tensors is not None
        self._encoder, self._tensors, self._factors = encoder, index.tensors, factors
        self._max_impact = index.manifest.max_impact
        self._recorded: RecordedEncodings | None = None

    def record(self, recorder: Recorder) -> None:
        """Record queries of all sizes, from their tokens to their hits."""
        if self._encoder.query_encoder != "model":
            self._tensors.record(recorder)
            return
        self._tensors.record(recorder, {*TERMS, self._longest})
        if self._tensors.recorded is not None:
            self._recorded = self._encoder.record(recorder, self._ask_recorded)

    def rank(
        self,
        tokens: Tokens,
        kind: TextKind,
        k: int,
        masks: Sequence[tuple[Selection | None, Sequence[int]]] = (),
        wanted: Wanted = always,
    ) -> Ranked:
        """Return the ``k`` best documents of texts; the same as encoding and searching apart.

        Args:
            tokens: of the texts.
            kind: which side the texts stand on.
            k: 1 to 10,000.
            masks: the documents that may be hits, with the rows of the texts that they are for,
                every row once; empty for all documents.
            wanted: as for :meth:`csplade.index.Searcher.search`.

        Raises:
            InputError: ``k`` out of range.
        """
        check_k(k)
        masked = any(mask is not None for mask, _ in masks)
        if not masked and (sizes := self._sizes(tokens, kind, k)) is not None:
            return self._replay(*sizes, tokens, k)
        made = self._encoder.encode_tensors(tokens, kind)
        clock = Clock(self._tensors.device)
        asked, steps = self._ask(made)
        found = self._search((made.terms, asked, made.counts), k, masks, clock, wanted)
        arrays = fetch(
            made.terms, made.weights, made.counts, made.positive, made.nonfinite, asked, steps,
            found.keys, found.counts, found.matched, found.postings,
        )  # fmt: skip
        assert made.clock is not None
        times = made.clock.read()
        return self._ranked(tokens, k, arrays[:7], arrays[7:], times, clock)

    @property
    def _longest(self) -> int:
        """Terms of an encoded query at most, as the index takes it."""
        kept = len(self._encoder.network.terms)
        return min(self._encoder.manifest.query_max_terms, kept) * self._tensors.rows_per_term

    def _ask(self, made: EncodedTensors) -> tuple[Tensor, Tensor]:
        """Return the impacts of vectors as queries of the index, and the impacts' scales."""
        weighed = made.weights
        if self._factors is not None:
            weighed = weighed * self._factors[made.terms.clamp(min=0)]  # padding has weight 0
        return quantize_queries(weighed, self._max_impact)

    def _search(
        self,
        padded: tuple[Tensor, Tensor, Tensor],
        k: int,
        masks: Sequence[tuple[Selection | None, Sequence[int]]],
        clock: Clock,
        wanted: Wanted,
    ) -> Found:
        """Search with the terms, impacts and counts of padded rows, those of each mask together."""
        searcher = self._tensors
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
            *(
                torch.cat([getattr(one, field.name) for one in parts])[order]
                for field in fields(Found)
            )
        )

    def _ask_recorded(self, made: EncodedTensors) -> tuple[Tensor, ...]:
        asked, steps = self._ask(made)
        rows = self._tensors.queries_from_rows(made.terms, asked, made.counts)
        assert self._tensors.recorded is not None
        self._tensors.recorded.buffer(len(rows), self._longest).take(rows)
        return asked, steps

    def _sizes(
        self, tokens: Tokens, kind: TextKind, k: int
    ) -> tuple[RecordedEncodings, TextSize, SearchSize] | None:
        """Return what holds a batch of queries; None where nothing recorded does."""
        if kind != "query" or self._recorded is None or self._tensors.recorded is None:
            return None
        texts = self._recorded.size(tokens)
        search = texts and self._tensors.recorded.size(texts.texts, self._longest, k)
        if not texts or not search or search.terms != self._longest:
            return None
        return self._recorded, texts, search

    def _replay(
        self,
        recorded: RecordedEncodings,
        texts: TextSize,
        search: SearchSize,
        tokens: Tokens,
        k: int,
    ) -> Ranked:
        assert self._tensors.recorded is not None
        encoding = Clock(self._tensors.device)
        with self._encoder.enqueueing, self._tensors.enqueueing:
            vectors = recorded.replay(texts, tokens)
            encoding.mark("encode")
            clock = Clock(self._tensors.device)
            found = self._tensors.recorded.replay(search)
            clock.mark("score")
        made, answer = wait(vectors, found)
        kept = [one[: len(tokens)] for one in made]
        return self._ranked(tokens, k, kept, answer, encoding.read(), clock)

    def _ranked(
        self,
        tokens: Tokens,
        k: int,
        made: Sequence[NDArray[Any]],
        answer: Sequence[NDArray[Any]],
        times: dict[str, int],
        clock: Clock,
    ) -> Ranked:
        """Return what was downloaded as vectors, queries and hits."""
        terms, weights, counts, positive, nonfinite, impacts, scales = made
        texts = encoded(tokens, terms, weights, counts, positive, nonfinite, timings=times)
        vectors = texts.vectors
        queries = ImpactBatch(vectors.indptr, vectors.terms, impacts[terms >= 0], scales)
        result = self._tensors.result(*answer, count=len(tokens), k=k, clock=clock)
        return Ranked(texts, queries, result)


def _of_rows(wanted: Wanted, rows: Sequence[int]) -> Wanted:
    return lambda i: wanted(rows[i])
