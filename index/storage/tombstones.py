"""Which documents of a segment are live: derived from the deletions that the store keeps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALL_LIVE = np.zeros(0, dtype=np.uint8)


def live_documents(
    first_ordinal: int, documents: int, deleted: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return which documents of a segment are live.

    Args:
        first_ordinal: ordinal of the segment's first document.
        documents: how many it has.
        deleted: ordinals of the shard's deleted documents.

    Returns:
        uint8 [documents], 1 where live; ``ALL_LIVE``, which is empty, where nothing is deleted.
    """
    inside = deleted - first_ordinal
    inside = inside[(inside >= 0) & (inside < documents)]
    if not inside.size:
        return ALL_LIVE
    live = np.ones(documents, dtype=np.uint8)
    live[inside] = 0
    return live
