"""Ids of a shard's documents in memory: a search without documents reads no store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise

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

    @classmethod
    def join(cls, parts: Sequence[tuple[ResidentIds, NDArray[np.bool_]]]) -> ResidentIds:
        """Return the ids of several parts, one after the other.

        Args:
            parts: ids, each with bool [n], False for places to leave out.
        """
        lengths, buffers = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
        for ids, kept in parts:
            sizes = np.diff(ids._offsets)
            lengths.append(sizes[kept])
            buffers.append(np.frombuffer(ids._buffer, np.uint8)[np.repeat(kept, sizes)])
        joined = cls(())
        joined._offsets = offsets(np.concatenate(lengths))
        joined._buffer = np.concatenate(buffers).tobytes()
        return joined

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._offsets.nbytes + len(self._buffer)

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the ordinals of all documents that have one of the ids, in any order."""
        hashes, ordinals = self._by_hash
        wanted = {one.encode() for one in ids}
        asked = np.fromiter(map(hash, wanted), np.int64, len(wanted))
        starts = np.searchsorted(hashes, asked, "left").tolist()
        ends = np.searchsorted(hashes, asked, "right").tolist()
        close = [ordinals[start:end] for start, end in zip(starts, ends, strict=True)]
        found = np.concatenate([np.empty(0, np.int64), *close])
        same = [one.encode() in wanted for one in self.take(found)]
        return found[np.array(same, dtype=np.bool_)]

    @cached_property
    def _by_hash(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Hash and ordinal of every id, by ascending hash; made by the first :meth:`find`."""
        bounds = pairwise(self._offsets.tolist())
        hashes = np.fromiter(
            (hash(self._buffer[start:end]) for start, end in bounds), np.int64, len(self)
        )
        order = np.argsort(hashes)
        return hashes[order], order

    def take(self, ordinals: NDArray[np.int64]) -> list[str]:
        """Return the ids of ordinals below ``len``, in the order given."""
        starts, ends = self._offsets[ordinals].tolist(), self._offsets[ordinals + 1].tolist()
        buffer = self._buffer
        return [buffer[start:end].decode() for start, end in zip(starts, ends, strict=True)]
