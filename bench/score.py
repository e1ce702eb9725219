"""The scoring benchmark: every scorer over the same postings and queries, in turns.

Medians are reported, and the answers of all scorers are compared.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import CspladeError, UnavailableError
from ..core.lines import read_jsonl
from ..core.machine import hardware
from ..core.vectors import ImpactBatch, SparseBatch
from ..index import Index
from . import peers
from .peers import QueryTerms, Scorer, TermPostings, TopK

ROUNDS = 3


@dataclass(frozen=True)
class ScorerTime:
    """The median times of one scorer.

    Attributes:
        name: of the scorer.
        milliseconds, p99: time of a single query, median and 99th percentile.
        ratio: ``milliseconds`` divided by that of the first scorer.
        many: milliseconds per query when many are answered at once.
        many_ratio: the same, divided by that of the first scorer.
        recall: mean share of the true top k that it found; None if it does not rank.
        exact: whether its scores equal those of the first scorer for every query; None if it
            promises no such thing.
    """

    name: str
    milliseconds: float
    p99: float
    ratio: float
    many: float
    many_ratio: float
    recall: float | None
    exact: bool | None


@dataclass(frozen=True)
class ScoreReport:
    """What was run, and on what machine.

    ``one`` and ``many`` describe how single and many queries were answered; ``left_out`` says which
    peers are missing, and why.
    """

    collection: str
    query_set: str
    hardware: str
    documents: int
    postings: int
    queries: int
    postings_per_query: float
    k: int
    threads: int
    one: str
    many: str
    scorers: tuple[ScorerTime, ...]
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)

    def headings(self) -> list[str]:
        """Return the column names of :meth:`rows`."""
        return [
            "scorer",
            f"ratio, {self.one}",
            "p50 ms",
            "p99 ms",
            f"ratio, {self.many}",
            "ms/query",
            f"recall@{self.k}",
            "exact",
        ]

    def rows(self) -> list[list[str]]:
        """Return a row of text per scorer."""
        return [
            [
                one.name,
                f"{one.ratio:.2f}",
                f"{one.milliseconds:.3f}",
                f"{one.p99:.3f}",
                f"{one.many_ratio:.2f}",
                f"{one.many:.3f}",
                "-" if one.recall is None else f"{one.recall:.4f}",
                {True: "yes", False: "no", None: "-"}[one.exact],
            ]
            for one in self.scorers
        ]

    def markdown(self) -> list[str]:
        """Return the table and the notes as lines of Markdown."""
        rows = [self.headings(), ["---"] * len(self.headings()), *self.rows()]
        table = ["| " + " | ".join(row) + " |" for row in rows]
        return [*table, "", *(f"- {line}" for line in self.notes())]

    def notes(self) -> list[str]:
        """Return what a reader needs to know beside the table."""
        return [
            self.collection,
            f"{self.postings / self.documents:.1f} postings per document; {self.query_set}, "
            f"{self.postings_per_query:,.0f} postings read per query; top {self.k}",
            f"{self.hardware}; at most {self.threads} threads; medians, ratio to "
            f"{self.scorers[0].name}",
            *(f"left out: {one}" for one in self.left_out),
        ]


def load_queries(path: Path, index: Index, count: int) -> tuple[ImpactBatch, str]:
    """Read real query vectors (Anserini JSON lines) and fit their terms and weights to the index.

    If the index has term strings, terms are matched by name. Otherwise the index is taken for
    synthetic, and the term strings get ids by their frequency in the queries, the most frequent
    first.

    Returns:
        The first ``count`` queries, scaled to a largest impact of 4,095, and a line that describes
        them.

    Raises:
        InputError: the file is missing, or a line has no vector.
    """
    vectors = []
    for line, values in read_jsonl(path):
        if not isinstance(values.get("vector"), dict):
            raise line.error("'vector' is missing; must be an object {term: weight}")
        vectors.append(values["vector"])
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
    impacts = batch.quantize_queries(index.manifest.max_impact)
    dropped = sum(map(len, vectors[:count])) - len(batch.terms)
    mean = len(batch.terms) / len(batch)
    name = (
        f"{path.name}, first {len(batch)}, {mean:.1f} terms on average, {how}, {dropped} terms "
        "dropped"
    )
    return impacts, name


def compare_scorers(
    path: Path,
    collection: str,
    make_queries: Callable[[Index], tuple[ImpactBatch, str]],
    k: int,
    threads: int,
    *,
    seismic: bool,
    progress: Callable[[str, int, int], None],
) -> ScoreReport:
    """Time all scorers on an index and compare their answers.

    Raises:
        CspladeError: an exact scorer disagrees with csplade, or csplade with its oracle.
        UnavailableError: the package of a scorer is not installed.
    """
    for package in ("scipy", "torch", "seismic") if seismic else ("scipy", "torch"):
        if find_spec(package) is None:
            raise UnavailableError(
                f"{package} is not installed; install it: pip install 'csplade[bench]'"
            )
    with Index.open(path, threads=1) as single, Index.open(path, threads=threads) as threaded:
        impacts, query_set = make_queries(single)
        queries: list[QueryTerms] = list(impacts)
        postings = TermPostings.of(single)
        contenders = [
            peers.csplade(single, threaded),
            peers.plain_numba(postings, threads),
            peers.scipy_csc(postings, threads),
            peers.torch_sparse(postings, threads),
        ]
        if seismic:
            contenders += peers.seismic(postings, threads, max(3500, postings.count // 10))
        truth = single.oracle(ImpactBatch.join(queries[:3]), k)
        measured = compare(contenders, queries, k, progress)
        best = contenders[0]
        for i in range(len(truth)):
            if not np.array_equal(truth.row(i)[2], best.one(queries[i], k)[1]):
                raise CspladeError(f"query {i}: the scores of csplade and of its reference differ")
        return ScoreReport(
            collection,
            query_set,
            hardware(),
            single.manifest.documents,
            single.manifest.postings,
            len(queries),
            float(single.search(impacts, 1).postings.mean()),
            k,
            threads,
            "one thread",
            f"{threads} threads",
            measured,
        )


def compare(
    contenders: Sequence[Scorer],
    queries: Sequence[QueryTerms],
    k: int,
    progress: Callable[[str, int, int], None],
) -> tuple[ScorerTime, ...]:
    """Time scorers in turns and compare their answers with those of the first one.

    Raises:
        CspladeError: two exact scorers disagree.
    """
    # This also warms up caches and compilers.
    answers = [[scorer.one(query, k) for query in queries] for scorer in contenders]
    alone, together = _measure(contenders, queries, k, progress)
    first = float(np.median(alone[0]))
    measured = []
    for scorer, found, spent, rate in zip(contenders, answers, alone, together, strict=True):
        exact = all(map(_same, answers[0], found)) if scorer.exact else None
        if exact is False:
            raise CspladeError(
                f"{scorer.name}: its scores differ from those of {contenders[0].name}; both are "
                "exact, so one is wrong"
            )
        p50, p99 = np.percentile(spent, [50, 99])
        measured.append(
            ScorerTime(
                scorer.name,
                float(p50),
                float(p99),
                float(p50) / first,
                rate,
                rate / together[0],
                None if scorer.exact is None else _mean_recall(answers[0], found),
                exact,
            )
        )
    return tuple(measured)


def _measure(
    contenders: Sequence[Scorer],
    queries: Sequence[QueryTerms],
    k: int,
    progress: Callable[[str, int, int], None],
) -> tuple[list[list[float]], list[float]]:
    """Return milliseconds of each single query, and the median per query of many at once."""
    alone: list[list[float]] = [[] for _ in contenders]
    together: list[list[float]] = [[] for _ in contenders]
    for turn in range(ROUNDS):
        for i, scorer in enumerate(contenders):
            for query in queries:
                started = time.perf_counter()
                scorer.one(query, k)
                alone[i].append(1e3 * (time.perf_counter() - started))
            started = time.perf_counter()
            scorer.many(queries, k)
            together[i].append(1e3 * (time.perf_counter() - started) / len(queries))
            progress("measuring", turn * len(contenders) + i + 1, ROUNDS * len(contenders))
    return alone, [float(np.median(one)) for one in together]


def _same(ours: TopK, theirs: TopK) -> bool:
    """Say whether scores are equal in order, and documents above the last score too.

    Documents that tie at the last score may be cut differently. From 2^24 on, float32 rounds sums,
    so that scores may differ in the last bits and close documents may change places.
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


def _mean_recall(truth: Sequence[TopK], found: Sequence[TopK]) -> float:
    """Return the mean share of each true top k that was found."""
    shares = [
        len(np.intersect1d(one[0], other[0])) / max(len(one[0]), 1)
        for one, other in zip(truth, found, strict=True)
    ]
    return float(np.mean(shares))
