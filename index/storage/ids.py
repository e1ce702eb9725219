"""Ids of a shard's documents in memory: a search without documents reads no store."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ...core.vectors import offsets


class ResidentIds:
    """Ids by ordinal, as one buffer of UTF-8 and the offsets in it.

    Args:
        ids: One per ordinal, from 0.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        encoded = [one.encode() for one in ids]
        self._offsets = offsets([len(one) for one in encoded])
        self._buffer = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._offsets.nbytes + len(self._buffer)

    def take(self, ordinals: NDArray[np.int64]) -> list[str]:
        """Return the ids of ordinals below ``len``, in the order given."""
        starts, ends = self._offsets[ordinals].tolist(), self._offsets[ordinals + 1].tolist()
        buffer = self._buffer
        return [buffer[start:end].decode() for start, end in zip(starts, ends, strict=True)]
