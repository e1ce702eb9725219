"""Derive segments from a document store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks import make_block
from .documents import DocumentStore
from .manifest import IndexManifest, SegmentManifest
from .segment import Segment


def held_ordinals(store: DocumentStore, segment: SegmentManifest) -> NDArray[np.int64]:
    """Return the ordinals of the documents that a segment file holds."""
    headers = store.headers(segment.first_ordinal, segment.stop_ordinal)
    return headers.ordinals[headers.held(segment.generation)]


def derive_segment(
    store: DocumentStore,
    ordinals: Sequence[int] | NDArray[np.integer[Any]],
    index: IndexManifest,
    count: Callable[[int], None] = lambda _: None,
) -> Segment:
    """Return the segment of some documents from their stored vectors.

    Args:
        store: of the shard.
        ordinals: of the documents, at least one, ascending.
        index: that the shard belongs to.
        count: called with the number of documents after each block.
    """
    blocks = []
    for start in range(0, len(ordinals), index.block_size):
        chunk = ordinals[start : start + index.block_size]
        blocks.append(make_block(store.vectors(chunk), index.vocabulary_size))
        count(len(chunk))
    return Segment.from_blocks(blocks)
