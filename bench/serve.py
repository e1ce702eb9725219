"""The serving benchmark: the service beside a bare echo server and engines in this process.

All of them search the same vectors with the same number of threads, in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..client.client import Client
from ..client.connection import ServiceError
from ..core.machine import hardware
from ..core.results import Answer
from ..core.vectors import ImpactBatch
from ..index import Index
from . import engines, peers
from .peers import QueryTerms, Scorer, TermPostings, TopK
from .score import ScoreReport, compare

# Queries of a SearchBatch, as many as a service accepts by default, and batches in flight.
BATCH_QUERIES = 64
BATCHES = 4

EXTRA = "pip install 'csplade[bench]'"


def compare_services(
    path: Path,
    collection: str,
    make_queries: Callable[[Index], tuple[ImpactBatch, str]],
    k: int,
    threads: int,
    *,
    service: str,
    echo: str,
    progress: Callable[[str, int, int], None],
) -> ScoreReport:
    """Time the service, a bare echo server, csplade's scorer and other engines.

    Args:
        path: directory of the index that the service serves.
        collection: description of the collection.
        make_queries: returns the queries for the index, and their description.
        k: hits per query.
        threads: threads of each engine; the service must run with as many.
        service: ``host:port`` of the service.
        echo: ``host:port`` of an echo server that repeats an answer of k hits.
        progress: called with a label, steps done and steps in all.

    Raises:
        CspladeError: an exact engine disagrees with the service.
    """
    with ExitStack() as stack:
        index = stack.enter_context(Index.open(path, threads=threads))
        impacts, query_set = make_queries(index)
        queries: list[QueryTerms] = list(impacts)
        numbers = _numbers(index)
        contenders = [
            _over_grpc(name, stack.enter_context(Client(address)), numbers, exact)
            for name, address, exact in (
                ("csplade serve, over gRPC", service, True),
                ("bare grpc.aio echo", echo, None),
            )
        ]
        contenders.append(peers.csplade(index, index, "csplade scorer, in process"))
        postings = TermPostings.of(index)
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="csplade-")))
        left_out = []
        for package, build in engines.BUILDERS.items():
            if find_spec(package) is None:
                left_out.append(f"{package} is not installed; {EXTRA}")
                continue
            contenders.append(build(postings, threads, directory))
        return ScoreReport(
            collection,
            query_set,
            hardware(),
            index.manifest.documents,
            index.manifest.postings,
            len(queries),
            float(index.search(impacts, 1).postings.mean()),
            k,
            threads,
            "one at a time",
            "many at once",
            compare(contenders, queries, k, progress),
            tuple(left_out),
        )


def _numbers(index: Index) -> dict[str, int]:
    """Return the number of every document, in order of arrival, by its id."""
    shards = index.manifest.shard_count
    numbers: dict[str, int] = {}
    for number, shard in index.shards.items():
        for one in shard.segments:
            ids = one.ids.take(np.arange(len(one)))
            arrivals = one.ordinals.astype(np.int64) * shards + number
            numbers |= dict(zip(ids, arrivals.tolist(), strict=True))
    return numbers


def _over_grpc(name: str, client: Client, numbers: dict[str, int], exact: bool | None) -> Scorer:
    """Ask a server as a user does, through the client."""

    def vector(query: QueryTerms) -> dict[int, float]:
        terms, impacts = query  # whole numbers, which the service takes as they are
        return dict(zip(terms.tolist(), impacts.tolist(), strict=True))

    def ranking(answer: Answer) -> TopK:
        documents = [numbers.get(id, -1) for id in answer.hits.ids]
        return np.array(documents, np.int64), np.array(answer.hits.integer_scores, np.float64)

    def batch(queries: Sequence[QueryTerms], k: int) -> list[TopK]:
        outcomes = client.search_batch([vector(query) for query in queries], k)
        failed = [one for one in outcomes if isinstance(one, ServiceError)]
        if failed:
            raise failed[0]
        return [ranking(one) for one in outcomes if isinstance(one, Answer)]

    def many(queries: Sequence[QueryTerms], k: int) -> list[TopK]:
        batches = [queries[i : i + BATCH_QUERIES] for i in range(0, len(queries), BATCH_QUERIES)]
        with ThreadPoolExecutor(BATCHES) as pool:
            return [
                one for found in pool.map(lambda some: batch(some, k), batches) for one in found
            ]

    return Scorer(name, lambda query, k: ranking(client.search(vector(query), k)), many, exact)
