"""The systems that can be evaluated: an index, a running service, a run file, BM25. Each gives one
row.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from ..core.beir import Dataset
from ..core.corpus import read_corpus
from ..core.errors import InputError
from ..core.results import Answer
from ..ingest.trec import Run
from . import bm25
from .measures import Rankings, judge
from .report import Row

if TYPE_CHECKING:
    from ..client.client import Client
    from ..engine.collection import Collection

MAX_K = 10_000

Progress = Callable[[int, int], None]
"""Called with queries done and queries in all."""


@dataclass(frozen=True)
class Task:
    """What every system is asked.

    Attributes:
        dataset: the collection.
        k: ranking depth that is measured.
        keep_self: count hits with the query's own id, see :func:`.measures.judge`.
    """

    dataset: Dataset
    k: int
    keep_self: bool = False

    @property
    def asked(self) -> int:
        """Hits to ask for: one more, where one may be left out."""
        return min(self.k + (not self.keep_self), MAX_K)

    def row(self, name: str, rankings: Rankings, **costs: Any) -> Row:
        """Return the row of a system: its quality, and what else is known of it."""
        found = judge(self.dataset.qrels, rankings, depth=self.k, keep_self=self.keep_self)
        return Row(
            name,
            found.measures,
            own_hits=found.own_hits,
            without_ranking=found.without_ranking,
            **costs,
        )


def evaluate_index(
    task: Task,
    engine: Collection,
    *,
    name: str,
    sample: int = 0,
    progress: Progress | None = None,
) -> Row:
    """Ask an engine every query, one at a time.

    Args:
        task: what is asked.
        engine: with its encoder.
        name: of the row.
        sample: encode so many of the first documents to tell documents per second; 0 leaves it out.
        progress: told after each query.

    Raises:
        IncompatibleError: the engine has no encoder.
    """
    encoder = engine.require_encoder()
    tally = _Tally(task, name)
    for query, text in _told(task.dataset.queries.items(), progress):
        started = time.perf_counter_ns()
        answer = engine.search([text], task.asked, with_document=False)[0]
        tally.add_answer(query, answer, time.perf_counter_ns() - started)
    manifest = engine.index.manifest
    texts = [document.full_text for document in islice(read_corpus(task.dataset.corpus), sample)]
    started = time.perf_counter_ns()
    if texts:
        encoder.encode(texts, "document")
    seconds = (time.perf_counter_ns() - started) / 1e9
    return tally.row(
        manifest.documents,
        manifest.postings,
        manifest.bytes,
        len(texts) / seconds if texts else None,
    )


def evaluate_target(
    task: Task, client: Client, *, name: str, progress: Progress | None = None
) -> Row:
    """Ask a running service every query, one at a time.

    Raises:
        ServiceError: the service refused or failed, or is not there.
    """
    index = client.info().index
    tally = _Tally(task, name)
    for query, text in _told(task.dataset.queries.items(), progress):
        if not text.strip():  # a service refuses blank texts; they have no hits
            tally.add(query, [], 0, 0, {}, {})
            continue
        started = time.perf_counter_ns()
        answer = client.search(text, task.asked)
        tally.add_answer(query, answer, time.perf_counter_ns() - started)
    return tally.row(index["documents"], index["postings"], index["bytes"], None)


def evaluate_run(task: Task, path: Path | str, run: Run, *, name: str) -> Row:
    """Measure a TREC run.

    Raises:
        InputError: the run has none of the judged queries.
    """
    dataset = task.dataset
    if not run.rankings.keys() & dataset.qrels.keys():
        raise InputError(
            f"{path}: has none of the queries that {dataset.name}/qrels/{dataset.split}.tsv judges"
        )
    return task.row(name, run.rankings)


def evaluate_bm25(task: Task, *, progress: Progress | None = None) -> Row:
    """Measure the lexical baseline; see :mod:`.bm25`."""
    result = bm25.rank(task.dataset, task.asked, progress)
    return task.row(
        "BM25",
        result.rankings,
        documents_per_second=result.documents_per_second,
        milliseconds={"total": result.query_seconds_p50 * 1e3},
    )


class _Tally:
    """Collects what the answers to all queries say."""

    def __init__(self, task: Task, name: str) -> None:
        self._task, self._name = task, name
        self._rankings: dict[str, list[str]] = {}
        self._postings: list[int] = []
        self._terms: list[int] = []
        self._timings: dict[str, list[int]] = defaultdict(list)
        self._cut: Counter[str] = Counter()

    def add(
        self,
        query: str,
        ids: list[str],
        postings: int,
        terms: int,
        timings: dict[str, int],
        cut: dict[str, int],
    ) -> None:
        self._rankings[query] = ids
        self._postings.append(postings)
        self._terms.append(terms)
        self._cut.update(cut)
        for stage, spent in timings.items():
            self._timings[stage].append(spent)

    def add_answer(self, query: str, answer: Answer, total: int) -> None:
        """Add an answer and the nanoseconds that the caller waited for it."""
        self.add(
            query,
            list(answer.hits.ids),
            answer.postings,
            answer.query_terms,
            {**answer.timings, "total": total},
            asdict(answer.cut),
        )

    def row(
        self, documents: int, postings: int, size: int, documents_per_second: float | None
    ) -> Row:
        return self._task.row(
            self._name,
            self._rankings,
            query_terms=fmean(self._terms),
            document_terms=postings / documents,
            flops=fmean(self._postings) / documents,
            bytes_per_document=size / documents,
            documents_per_second=documents_per_second,
            milliseconds={stage: median(spent) / 1e6 for stage, spent in self._timings.items()},
            cut=dict(self._cut),
        )


def _told(
    queries: Iterable[tuple[str, str]], progress: Progress | None
) -> Iterable[tuple[str, str]]:
    every = list(queries)
    for done, one in enumerate(every, 1):
        yield one
        if progress:
            progress(done, len(every))
