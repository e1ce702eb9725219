"""The scoring benchmark: every scorer, the same postings and queries, one run, medians, answers
compared.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import CspladeError, InputError, UnavailableError
from ..core.files import read_jsonl
from ..core.vectors import MAX_QUERY_IMPACT, ImpactBatch, SparseBatch
from ..index import Index
from . import peers as scorers
from .peers import Postings, Query, Scorer, TopK

ROUNDS = 3


@dataclass(frozen=True)
class Measured:
    """One scorer.

    Attributes:
        name: of the scorer.
        milliseconds: median time of a query asked alone, one thread.
        ratio: how many times longer than csplade that is.
        threaded: milliseconds per query with all threads over many queries, median of the rounds.
        threaded_ratio: how many times longer than csplade that is.
        recall: mean share of the true top k that it found.
        exact: whether its scores equal csplade's for every query; None if it does not promise to.
    """

    name: str
    milliseconds: float
    ratio: float
    threaded: float
    threaded_ratio: float
    recall: float
    exact: bool | None


@dataclass(frozen=True)
class BenchReport:
    """What was run, and on what."""

    collection: str
    query_set: str
    hardware: str
    documents: int
    postings: int
    queries: int
    postings_per_query: float
    k: int
    threads: int
    scorers: tuple[Measured, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def load_queries(path: Path, index: Index, count: int) -> tuple[ImpactBatch, str]:
    """Read real query vectors (Anserini JSON lines) and fit their terms and weights to the index.

    An index that keeps the strings of its terms gets them by name. Any other is taken for
    synthetic: there the strings take ids in order of how many of the queries have them, the most
    frequent first.

    Returns:
        The first ``count`` queries, the largest weight as impact 4,095, and a line that says what
        was done.

    Raises:
        InputError: no such file, or a line without a vector.
    """
    vectors = []
    for number, line in read_jsonl(path):
        if not isinstance(line.get("vector"), dict):
            raise InputError(f"{path}:{number}: needs 'vector', an object of term: weight")
        vectors.append(line["vector"])
    if index.manifest.vocabulary is not None:
        places = {token: term for term, token in enumerate(index.manifest.vocabulary)}
        how = "terms by the index's vocabulary"
    else:
        frequency = Counter(token for vector in vectors for token in vector)
        ranked = sorted(frequency, key=lambda token: (-frequency[token], token))
        places = {
            token: term for term, token in enumerate(ranked[: index.manifest.vocabulary_size])
        }
        how = "terms by rank of their frequency in the queries"
    kept = [
        {places[token]: weight for token, weight in vector.items() if token in places}
        for vector in vectors[:count]
    ]
    batch = SparseBatch.from_rows((list(vector), list(vector.values())) for vector in kept)
    impacts = batch.quantize(float(batch.weights.max()) / MAX_QUERY_IMPACT, MAX_QUERY_IMPACT)
    dropped = sum(map(len, vectors[:count])) - len(batch.terms)
    mean = len(batch.terms) / len(batch)
    name = f"{path.name}, first {len(batch)}, {mean:.1f} terms on average, {how}, {dropped} terms dropped"
    return ImpactBatch(
        impacts.indptr, impacts.terms, impacts.impacts, index.manifest.query_scale
    ), name


def run(
    path: Path,
    collection: str,
    make_queries: Callable[[Index], tuple[ImpactBatch, str]],
    k: int,
    threads: int,
    *,
    seismic: bool,
    progress: Callable[[str, int, int], None],
) -> BenchReport:
    """Measure all scorers on an index.

    Raises:
        CspladeError: two exact scorers disagree.
        UnavailableError: a peer is not installed.
    """
    for package in ("scipy", "torch", "seismic") if seismic else ("scipy", "torch"):
        if find_spec(package) is None:
            raise UnavailableError(f"the benchmark needs {package}; pip install 'csplade[bench]'")
    with Index.open(path, threads=1) as single, Index.open(path, threads=threads) as threaded:
        impacts, query_set = make_queries(single)
        queries: list[Query] = list(impacts)
        postings = Postings.of(single)
        contenders = [
            scorers.csplade(single, threaded),
            scorers.plain_numba(postings, threads),
            scorers.scipy_csc(postings, threads),
            scorers.torch_sparse(postings, threads),
        ]
        if seismic:
            contenders += scorers.seismic(postings, threads, max(3500, postings.count // 10))
        truth = single.oracle(scorers.batch(queries[:3], single.manifest.query_scale), k)
        answers = [
            [scorer.one(query, k) for query in queries] for scorer in contenders
        ]  # warms up, too
        for i in range(len(truth)):
            if not np.array_equal(truth.row(i)[2], answers[0][i][1]):
                raise CspladeError(f"query {i}: csplade and its oracle differ")
        times, threaded_times = _measure(contenders, queries, k, progress)
        read = float(single.search(impacts, 1).postings.mean())
        measured = []
        for scorer, found, alone, together in zip(
            contenders, answers, times, threaded_times, strict=True
        ):
            exact = all(map(_same, answers[0], found)) if scorer.exact else None
            if exact is False:
                raise CspladeError(f"{scorer.name} and csplade differ, though both are exact")
            recall = float(
                np.mean([_recall(*pair) for pair in zip(answers[0], found, strict=True)])
            )
            measured.append(
                Measured(
                    scorer.name,
                    alone,
                    alone / times[0],
                    together,
                    together / threaded_times[0],
                    recall,
                    exact,
                )
            )
        return BenchReport(
            collection,
            query_set,
            _hardware(),
            single.manifest.documents,
            single.manifest.postings,
            len(queries),
            read,
            k,
            threads,
            tuple(measured),
        )


def _measure(
    contenders: Sequence[Scorer],
    queries: Sequence[Query],
    k: int,
    progress: Callable[[str, int, int], None],
) -> tuple[list[float], list[float]]:
    """Median milliseconds per query, alone and with all threads; contenders take turns round by
    round.
    """
    alone: list[list[float]] = [[] for _ in contenders]
    together: list[list[float]] = [[] for _ in contenders]
    for turn in range(ROUNDS):
        for i, scorer in enumerate(contenders):
            for query in queries:
                started = time.perf_counter()
                scorer.one(query, k)
                alone[i].append(time.perf_counter() - started)
            started = time.perf_counter()
            scorer.many(queries, k)
            together[i].append((time.perf_counter() - started) / len(queries))
            progress("measuring", turn * len(contenders) + i + 1, ROUNDS * len(contenders))
    return [float(np.median(one)) * 1e3 for one in alone], [
        float(np.median(one)) * 1e3 for one in together
    ]


def _same(ours: TopK, theirs: TopK) -> bool:
    """Equal scores in order, equal documents above the last one (ties may be cut differently).

    Sums of 2^24 and more are rounded in float32, so scores may then differ in the last bits and
    documents with nearly equal scores change places.
    """
    if len(ours[1]) != len(theirs[1]):
        return False
    if not len(ours[1]):
        return True
    if ours[1][0] >= 2**24:
        return bool(np.allclose(ours[1], theirs[1], rtol=1e-5))
    above = ours[1] > ours[1][-1]
    return np.array_equal(ours[1], theirs[1]) and set(ours[0][above]) == set(
        theirs[0][theirs[1] > theirs[1][-1]]
    )


def _recall(truth: TopK, found: TopK) -> float:
    return len(np.intersect1d(truth[0], found[0])) / max(len(truth[0]), 1)


def _hardware() -> str:
    name = platform.processor() or platform.machine()
    for line in (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    ):
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return f"{name}, Python {platform.python_version()}, {platform.system()}"
