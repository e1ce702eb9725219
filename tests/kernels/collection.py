"""Random documents and queries in the formats that the scorers take."""

import numpy as np

from csplade.core.vectors import ImpactBatch
from csplade.index.storage.blocks import make_block
from csplade.index.storage.documents import Rows
from csplade.index.storage.segment import Segment
from csplade.kernels.score.layout import Layout
from csplade.kernels.score.types import Postings


class Collection:
    """Random documents as segments of blocks, and random queries, with the term and impact ranges
    that the format allows.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        documents: int = 300,
        queries: int = 3,
        vocabulary: int = 40,
        document_terms: int = 12,
        query_terms: int = 10,
        levels: int = 255,
        query_levels: int = 4095,
        block_size: int = 1 << 14,
    ) -> None:
        rng = np.random.default_rng(seed)
        # A few far-apart ids, the largest that any encoder has among them.
        self.names = np.sort(rng.choice(262_143, vocabulary - 1, replace=False))
        self.names = np.append(self.names, 262_143).astype(np.int32)
        self.documents = self.vectors(rng, documents, document_terms, levels)
        self.queries = self.vectors(rng, queries, query_terms, query_levels)
        self.block_size = block_size

    def vectors(self, rng: np.random.Generator, count: int, most: int, levels: int) -> ImpactBatch:
        """Rows of 0 to ``most`` terms, drawn with replacement and kept once."""
        draws = np.repeat(np.arange(count), rng.integers(0, most + 1, count))
        places = np.unique(draws * len(self.names) + rng.integers(0, len(self.names), len(draws)))
        indptr = np.searchsorted(places, np.arange(count + 1) * len(self.names)).astype(np.int64)
        terms = self.names[places % len(self.names)]
        return ImpactBatch(
            indptr, terms, rng.integers(1, levels + 1, len(terms)).astype(np.int32), 1.0
        )

    def segment(self, first: int = 0, last: int | None = None) -> Segment:
        """Documents ``first`` to ``last - 1``."""
        batch, blocks = self.documents, []
        last = len(batch) if last is None else last
        for start in range(first, last, self.block_size):
            bounds = batch.indptr[start : min(start + self.block_size, last) + 1]
            rows = slice(bounds[0], bounds[-1])
            impacts = batch.impacts[rows].astype(np.uint16)
            vectors = Rows(bounds - bounds[0], batch.terms[rows], impacts)
            blocks.append(make_block(vectors, int(self.names[-1]) + 1))
        return Segment.from_blocks(blocks)

    def postings(
        self,
        device: str,
        *parts: tuple[int, int],
        dense: int = 0,
        shard: int = 0,
        shards: int = 1,
        first_ordinal: int = 0,
    ) -> Postings:
        """Segments of these documents on a device, the ``dense`` most frequent terms as columns."""
        parts = parts or ((0, len(self.documents)),)
        segments = [self.segment(first, last) for first, last in parts]
        ordinals = np.concatenate([np.arange(first, last) for first, last in parts])
        layout = Layout.of_segments(segments, self.block_size, dense=dense)
        return layout.load(segments, (first_ordinal + ordinals) * shards + shard, device)
