"""The engine's own time: vector queries asked one by one at a steady rate, in this process, with
nothing between.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.vectors import SparseBatch
from ..engine.collection import Collection
from ..service.grpc.requests import search_work
from ..service.settings import Limits

WARM = 20  # queries before the clock counts


class EngineAlone:
    """An engine without encoder. Use as a context manager.

    Args:
        path: the index's directory.
        threads: of its scorer; None for all cores, as the service has.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._engine = Collection.open(path, with_encoder=False, index_threads=threads)

    def __enter__(self) -> EngineAlone:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def times(self, requests: Sequence[Any], rate: float, seconds: float) -> tuple[float, float]:
        """Ask at a rate, so that caches and cores are as warm as under the service's load.

        Args:
            requests: SearchRequest messages with vectors, asked in turn.
            rate: queries a second.
            seconds: for how long.

        Returns:
            p50 and p99 in milliseconds.
        """
        size = self._engine.index.manifest.vocabulary_size
        works = [search_work(one, Limits(), size, self._engine.terms_by_token) for one in requests]
        asked = [
            (SparseBatch.from_rows([work.vector]), work.k)
            for work in works
            if work.vector is not None
        ]
        took = []
        began = time.perf_counter()
        for number in range(WARM + max(1, int(rate * seconds))):
            if (early := began + number / rate - time.perf_counter()) > 0:
                time.sleep(early)
            vector, k = asked[number % len(asked)]
            started = time.perf_counter()
            self._engine.search(vector, k, fetch=False)
            took.append(time.perf_counter() - started)
        p50, p99 = np.percentile(took[WARM:], [50, 99]) * 1e3
        return float(p50), float(p99)
