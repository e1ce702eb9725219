"""The ranking key: one int64 that sorts candidates as hits rank.

A key holds the score above 32 bits that hold ``LAST_ARRIVAL`` minus the arrival number
``ordinal * shards + shard``. A greater key ranks first: score descending, then ordinal ascending,
then shard ascending. No two documents share a key, so the k greatest keys are one set. 0 means no
hit. The CPU scorer and the GPU kernels pack the same keys.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LAST_ARRIVAL = 2**32 - 1


def best_keys(keys: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The k greatest keys, descending."""
    if len(keys) > k:
        keys = np.partition(keys, len(keys) - k)[len(keys) - k :]
    return np.sort(keys)[::-1]


def pack(scores: NDArray[np.int32], arrivals: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keys of scores and arrival numbers."""
    return (scores.astype(np.int64) << 32) | (LAST_ARRIVAL - arrivals)


def unpack(
    keys: NDArray[np.int64], shards: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
    """Shards int32, ordinals int64 and scores int32 of keys."""
    ordinals, numbers = np.divmod(LAST_ARRIVAL - (keys & LAST_ARRIVAL), shards)
    return numbers.astype(np.int32), ordinals, (keys >> 32).astype(np.int32)
