"""The scoring benchmark on a device: one large collection, batches of several sizes, answers
checked against plain torch.

Every number is a median over batches of fresh queries, so that no batch finds its postings in the
cache by chance more than others. "device" times lie between events in the device's stream; "whole"
times are the host's, from impacts on the host to ranked keys on the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from statistics import median
from typing import Any

import numpy as np
import torch

from ..core.errors import CspladeError
from ..core.machine import hardware
from ..core.ranking_key import LAST_ARRIVAL
from ..core.vectors import ImpactBatch
from ..kernels.runtime.transfer import Clock, fetch
from ..kernels.score.api import choose_backend
from ..kernels.score.layout import entries
from ..kernels.score.search import Found, search_blocks
from ..kernels.score.types import Postings, Queries
from . import distribution
from .synthetic_device import collection
from .timing import Ceilings, event_milliseconds, graph_of, wall_milliseconds

BATCHES = (1, 8, 64)
HEADINGS = [
    "batch", "ms/query", "batch ms", "score", "select", "as graph", "whole ms", "queries/s",
    "postings/query",
    "of copy bandwidth",
]  # fmt: skip
# Batches of each size that are timed, and queries that are also answered by plain torch.
ROUNDS = 20
CHECKED = 4


@dataclass(frozen=True)
class Measured:
    """Batches of one size; all times are medians in milliseconds.

    Attributes:
        batch: queries in a batch.
        device: a batch between events: score and select.
        score, select: their parts.
        graph: a batch replayed as a CUDA graph; None where that was not possible.
        whole: a batch by the host's clock, upload and fetch included.
        per_query: ``device / batch``.
        queries_per_second: by ``whole``.
        postings: read by a query, mean.
        bandwidth_share: 3 bytes a posting over ``score``, as a share of the copy bandwidth.
    """

    batch: int
    device: float
    score: float
    select: float
    graph: float | None
    whole: float
    per_query: float
    queries_per_second: float
    postings: float
    bandwidth_share: float


@dataclass(frozen=True)
class Made:
    """Describe what is searched, and on what."""

    collection: str
    hardware: str
    backend: str
    documents: int
    postings: int
    index_bytes: int
    seconds_to_make: float
    query_terms: int
    k: int
    ceilings: Ceilings


@dataclass(frozen=True)
class DeviceReport:
    """Report one benchmark.

    Attributes:
        made: what was searched, and on what.
        checked: queries whose answers equal plain torch's.
        repeatable: whether repeats gave the same bytes.
        batches: one result per size of batch.
    """

    made: Made
    checked: int
    repeatable: bool
    batches: tuple[Measured, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def rows(self) -> list[list[str]]:
        """As rows under :data:`HEADINGS`."""
        return [
            [
                str(one.batch),
                f"{one.per_query:.4f}",
                f"{one.device:.4f}",
                f"{one.score:.4f}",
                f"{one.select:.4f}",
                "-" if one.graph is None else f"{one.graph:.4f}",
                f"{one.whole:.4f}",
                f"{one.queries_per_second:,.0f}",
                f"{one.postings:,.0f}",
                f"{one.bandwidth_share:.1%}",
            ]
            for one in self.batches
        ]

    def notes(self) -> list[str]:
        """What the table needs to be read."""
        made = self.made
        return [
            made.collection,
            f"{made.postings:,} postings, {made.index_bytes / 2**30:.2f} GiB, made in "
            f"{made.seconds_to_make:.1f} s; queries of {made.query_terms} terms, top {made.k}, "
            f"backend {made.backend}",
            f"{self.checked} queries equal plain torch's exhaustive answer; three repeats gave "
            "the same bytes",
            f"{made.hardware}; copy {made.ceilings.copy / 1e12:.3f} TB/s read and written",
        ]


def run(
    documents: int,
    mean_terms: float,
    query_terms: int,
    k: int,
    *,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    **options: Any,
) -> DeviceReport:
    """Make a collection on the device and time searches in it.

    Args:
        documents, mean_terms, query_terms, k: as for :func:`steps`.
        progress: called with a stage, steps done and steps in all.
        options: of :func:`steps`.

    Raises:
        CspladeError: an answer differs from plain torch's, or from itself when asked again.
    """
    measured: list[Measured] = []
    total = len(options.get("batches", BATCHES))
    for step in steps(documents, mean_terms, query_terms, k, **options):
        if isinstance(step, Made):
            made = step
            continue
        measured.append(step)
        progress("batches", len(measured), total)
    return DeviceReport(made, CHECKED, True, tuple(measured))


def steps(
    documents: int,
    mean_terms: float,
    query_terms: int,
    k: int,
    *,
    device: str = "cuda",
    vocabulary: int = distribution.VOCABULARY,
    seed: int = 7,
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
    backend: str | None = None,
) -> Iterator[Made | Measured]:
    """Make a collection on the device, then time batch after batch; yield each result at once.

    Args:
        documents, mean_terms, vocabulary, seed: of the collection, see :mod:`.distribution`;
            queries take seed + 1.
        query_terms: of each query.
        k: hits per query.
        device: "cuda", "cuda:1" ..., or "cpu" for the plain torch scorer (tiny collections only).
        batches: sizes of batches.
        rounds: batches of each size.
        backend: of :func:`.search_blocks`; None takes the fastest.

    Raises:
        CspladeError: an answer differs from plain torch's, or from itself when asked again.
    """
    place = torch.device(device)
    started = time.perf_counter()
    postings = collection(documents, mean_terms, vocabulary, seed, place)
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    seconds = time.perf_counter() - started
    ceilings = Ceilings.measure(place)
    yield Made(
        distribution.describe(documents, mean_terms, seed, vocabulary) + f", made on {place.type}",
        hardware(place),
        backend or choose_backend(postings),
        documents,
        int(postings.lengths.sum(dtype=torch.int64)),
        postings.nbytes,
        seconds,
        query_terms,
        k,
        ceilings,
    )
    chances = distribution.probabilities(vocabulary)

    def draw(count: int, number: int) -> ImpactBatch:
        return distribution.queries(count, query_terms, seed + 1 + number, chances)

    def search(queries: Queries, mark: Callable[[str], None] = lambda stage: None) -> Found:
        return search_blocks(queries, postings, k, backend=backend, mark=mark)

    checked = draw(CHECKED, 0)
    _check(search(Queries.from_impacts(checked, place)), checked, postings, k)
    _check_repeatable(search, Queries.from_impacts(draw(max(batches), 1), place))
    for batch in batches:
        drawn = [draw(batch, 1 + number) for number in range(rounds)]
        yield _measure(drawn, search, place, ceilings)


def _check_repeatable(search: Callable[..., Found], queries: Queries) -> None:
    answers = [fetch(*vars(search(queries)).values()) for _ in range(3)]
    for answer in answers[1:]:
        if not all(map(np.array_equal, answers[0], answer)):
            raise CspladeError("the same queries gave different answers when asked again")


def _measure(
    drawn: Sequence[ImpactBatch],
    search: Callable[..., Found],
    device: torch.device,
    ceilings: Ceilings,
) -> Measured:
    batch = len(drawn[0])
    uploaded = [Queries.from_impacts(one, device) for one in drawn]
    for one in uploaded[:3]:
        search(one)
    clocks, read = [], []
    for one in uploaded:
        clocks.append(Clock(device))
        found = search(one, clocks[-1].mark)
        read.append(found.postings)
    postings = float(torch.cat(read).double().mean())  # waits
    stages = [clock.read() for clock in clocks]
    score, select = (median(one[name] for one in stages) / 1e6 for name in ("score", "select"))
    spent = median(sum(one.values()) for one in stages) / 1e6
    turn = count()

    def answer() -> None:
        found = search(Queries.from_impacts(drawn[next(turn) % len(drawn)], device))
        fetch(found.keys, found.counts, found.matched, found.postings)

    whole = wall_milliseconds(answer, repeats=len(drawn))
    return Measured(
        batch,
        spent,
        score,
        select,
        _graph(uploaded[0], search, device),
        whole,
        spent / batch,
        batch / whole * 1e3,
        postings,
        ceilings.copy_ms(3 * postings * batch) / score,
    )


def _graph(queries: Queries, search: Callable[..., Found], device: torch.device) -> float | None:
    """Return milliseconds of one batch as a CUDA graph, whose launches cost almost nothing."""
    replay = graph_of(lambda: search(queries).keys, device)
    if replay is None:
        return None
    return event_milliseconds(replay, device, repeats=ROUNDS)


def _check(found: Found, queries: ImpactBatch, postings: Postings, k: int) -> None:
    keys, counts, matched, read = fetch(found.keys, found.counts, found.matched, found.postings)
    for i in range(len(queries)):
        truth_keys, truth_matched, truth_read = plain_answer(*queries.row(i), postings, k)
        same = (
            np.array_equal(keys[i, : counts[i]], truth_keys)
            and (matched[i], read[i]) == (truth_matched, truth_read)
            and not keys[i, counts[i] :].any()
        )
        if not same:
            raise CspladeError(f"query {i}: the answer differs from plain torch's")


def plain_answer(
    terms: np.ndarray, impacts: np.ndarray, postings: Postings, k: int
) -> tuple[np.ndarray, int, int]:
    """Answer a query the plain way: every posting of its terms, none of the kernels used.

    Returns:
        keys int64, descending; matched; postings read.
    """
    device, read = postings.device, 0
    scores = torch.zeros(postings.blocks * postings.block_size, dtype=torch.int64, device=device)
    rows = postings.rows.tolist()
    for term, impact in zip(terms.tolist(), impacts.tolist(), strict=True):
        if term < len(rows) and (row := rows[term]) >= 0:
            _, documents, values = entries(postings, slice(row, row + 1))
            scores.index_add_(0, documents, impact * values)
            read += len(documents)
    matched = torch.nonzero(scores).squeeze(1)
    keys = (scores[matched] << 32) | (LAST_ARRIVAL - matched)
    best = keys.sort(descending=True).values[:k]
    return best.cpu().numpy(), len(matched), read
