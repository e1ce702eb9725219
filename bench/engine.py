"""Measure the engine without a service: single vector queries at a steady rate, in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.vectors import SparseBatch
from ..engine.collection import Collection
from ..service.messages.requests import search_query
from ..service.settings import Limits

WARM_UP_QUERIES = 20


class EngineAlone:
    """An engine without an encoder. Use it as a context manager.

    Args:
        path: directory of the index.
        threads: threads of its scorer; None for all cores, as in the service.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._engine = Collection.open(path, with_encoder=False, index_threads=threads)

    def __enter__(self) -> EngineAlone:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def times(self, requests: Sequence[Any], rate: float, seconds: float) -> tuple[float, float]:
        """Search at a rate, so that caches and cores are as warm as under the service's load.

        Args:
            requests: SearchRequest messages with vectors, sent in turn.
            rate: queries per second.
            seconds: duration.

        Returns:
            p50 and p99 in milliseconds.
        """
        queries = [search_query(one, Limits(), self._engine.info) for one in requests]
        asked = [
            (SparseBatch.join([query.vector]), query.k)
            for query in queries
            if query.vector is not None
        ]
        took = []
        began = time.perf_counter()
        for number in range(WARM_UP_QUERIES + max(1, int(rate * seconds))):
            if (early := began + number / rate - time.perf_counter()) > 0:
                time.sleep(early)
            vector, k = asked[number % len(asked)]
            started = time.perf_counter()
            self._engine.search(vector, k, with_document=False)
            took.append(time.perf_counter() - started)
        p50, p99 = np.percentile(took[WARM_UP_QUERIES:], [50, 99]) * 1e3
        return float(p50), float(p99)
