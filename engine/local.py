"""What the server does for a request: queue, encode and score in one worker, fetch in a pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..core.errors import DeadlineError, OverloadedError
from ..core.vectors import ImpactBatch, SparseBatch
from ..index import SearchResult
from ..service.settings import Settings
from ..service.telemetry.metrics import Metrics
from .batching import Batcher
from .collection import Answer, Collection

if TYPE_CHECKING:
    from ..model.tokens import Encoded, Tokens

T = TypeVar("T")

Kind = Literal["query", "document"]
FEW = 100  # hits that are made into a message in less time than it takes to change the thread
SMALL = 1_000_000  # postings of an index of which every search is brief
SHORT = 500  # characters of a text that is looked up in no time
KINDS: tuple[Kind, ...] = ("query", "document")
Vector = tuple[NDArray[np.int32], NDArray[np.float32]]


@dataclass(slots=True)
class Work:
    """One text to encode, or one query (text or vector) to encode and score.

    Attributes:
        text: None when ``vector`` is given.
        vector: terms int32 ascending, weights float32.
        kind: which side ``text`` stands on.
        k: hits wanted; 0 to encode only.
        explain: add contributions to hits.
        fetch: add documents to hits.
        allow_partial: a shard that fails may be missing from the answer; where shards can fail
            alone.
        tokens: of ``text``, made in the worker.
        then: makes the result in the pool, from what was done and, for a search, the answer.
    """

    text: str | None = None
    vector: Vector | None = None
    kind: Kind = "query"
    k: int = 0
    explain: bool = False
    fetch: bool = False
    allow_partial: bool = False
    tokens: Tokens | None = None
    then: Callable[[Done, Answer | None], Any] = lambda done, answer: (done, answer)
    timings: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Done:
    """What was made of a work: the vector, and for a search the batch's result and its row therein."""

    vector: Vector
    tokens: int = 0
    dropped_tokens: int = 0
    dropped_terms: int = 0
    clipped: int = 0
    timings: dict[str, int] = field(default_factory=dict)
    queries: ImpactBatch | None = None
    result: SearchResult | None = None
    row: int = 0


@asynccontextmanager
async def until(remaining: float | None, limit: float) -> AsyncIterator[float]:
    """Gives the deadline as a moment of ``time.monotonic``; what outlives it ends in DeadlineError.

    Args:
        remaining: seconds until the caller's deadline, None for none.
        limit: seconds that any request may take.
    """
    seconds = limit if remaining is None else min(remaining, limit)
    try:
        async with asyncio.timeout(seconds):
            yield time.monotonic() + seconds
    except TimeoutError:
        raise DeadlineError(f"not answered within {seconds:.3f} s") from None


class Pipeline:
    """Runs requests on an engine; every method may be awaited by many requests at once."""

    def __init__(self, engine: Collection, settings: Settings, metrics: Metrics) -> None:
        self.engine = engine
        self._metrics = metrics
        self._timeout = settings.limits.timeout_seconds
        self._batcher: Batcher[Work, Done, Any] = Batcher(
            self._weigh,
            self._process,
            self._finish,
            _is_light,
            self._is_brief,
            settings.server.fetch_threads,
            settings.batching,
            metrics,
        )
        self._judge_pool = ThreadPoolExecutor(1, "csplade-verify")
        self._judgement: asyncio.Future[tuple[Answer, int]] | None = None

    def close(self) -> None:
        """Finish what waits and end the threads; blocks."""
        self._batcher.close()
        self._judge_pool.shutdown()

    async def search(
        self, work: Work, *, remaining: float | None, then: Callable[[Answer], T]
    ) -> T:
        """Answer one query.

        Args:
            work: with ``k`` >= 1.
            remaining: seconds until the caller's deadline, None for none.
            then: turns the answer into what is returned, off the event loop.

        Raises:
            OverloadedError, DeadlineError, UnavailableError: see :meth:`Batcher.submit`.
            IncompatibleError: a text, but no encoder.
        """
        work.then = lambda done, answer: then(answer)  # type: ignore[arg-type]
        async with until(remaining, self._timeout) as deadline:
            return await self._submit(work, deadline)

    async def encode(
        self, works: Sequence[Work], *, remaining: float | None, then: Callable[[Sequence[Done]], T]
    ) -> T:
        """Encode texts; ``then`` gets what was done of each. Raises as :meth:`search`."""
        self.engine.need_encoder()
        async with until(remaining, self._timeout) as deadline:
            results = await self._batcher.submit(works, deadline)
            return await asyncio.to_thread(then, [done for done, _ in results])

    async def verify(self, work: Work, *, remaining: float | None) -> tuple[Answer, Answer, int]:
        """Answer one query twice: as :meth:`search` does, and by the exhaustive reference.

        Returns:
            The answer, the reference's answer, and the nanoseconds the reference took.

        Raises:
            OverloadedError: another verification is going on; and as :meth:`search`.
        """
        async with until(remaining, self._timeout) as deadline:
            done, answer = await self._submit(work, deadline)
            if self._judgement is not None and not self._judgement.done():
                raise OverloadedError("another Verify is going on, one at a time is allowed", 1.0)
            loop = asyncio.get_running_loop()
            self._judgement = loop.run_in_executor(self._judge_pool, self._judge, work, done)
            # A caller that leaves early does not stop the thread: its place stays taken until it is
            # through.
            reference, nanoseconds = await asyncio.shield(self._judgement)
            return answer, reference, nanoseconds

    async def _submit(self, work: Work, deadline: float) -> Any:
        if work.vector is None:
            self.engine.need_encoder()
        return (await self._batcher.submit([work], deadline))[0]

    def _is_brief(self, work: Work) -> bool:
        """A search that takes less time than changing the thread: in few postings, with no network
        to run.
        """
        index, encoder = self.engine.index, self.engine.encoder
        if (
            index.tensors is not None
            or index.manifest.postings > SMALL
            or not work.k
            or not _is_light(work)
        ):
            return False
        return work.text is None or (
            encoder is not None and encoder.looks_up(work.kind) and len(work.text) <= SHORT
        )

    def _weigh(self, works: Sequence[Work]) -> list[int]:
        """In the worker: tokenize the texts; a work costs its tokens."""
        for kind in KINDS:
            texts = [work for work in works if work.text is not None and work.kind == kind]
            if not texts:
                continue
            started = time.perf_counter_ns()
            tokens = self.engine.need_encoder().tokenize([work.text or "" for work in texts], kind)
            spent = time.perf_counter_ns() - started
            self._metrics.stages({"tokenize": spent})
            for row, work in enumerate(texts):
                work.tokens = tokens.take([row])
                work.timings["tokenize"] = spent
        return [0 if work.tokens is None else len(work.tokens.ids[0]) for work in works]

    def _process(self, works: Sequence[Work]) -> list[Done]:
        """In the worker: encode the texts, then score all queries of the batch together."""
        done = {i: Done(work.vector) for i, work in enumerate(works) if work.vector is not None}
        for kind in KINDS:
            rows = [
                i for i, work in enumerate(works) if work.tokens is not None and work.kind == kind
            ]
            if self.engine.together and (asking := [i for i in rows if works[i].k]):
                done.update(
                    zip(
                        asking, self._encode_and_rank([works[i] for i in asking], kind), strict=True
                    )
                )
                rows = [i for i in rows if not works[i].k]
            if rows:
                done.update(zip(rows, self._encode([works[i] for i in rows], kind), strict=True))
        if searches := [i for i, work in enumerate(works) if work.k and done[i].result is None]:
            self._rank([done[i] for i in searches], max(works[i].k for i in searches))
        return [done[i] for i in range(len(works))]

    def _encode(self, works: Sequence[Work], kind: Kind) -> list[Done]:
        return self._encoded(works, self.engine.need_encoder().encode_tokens(_tokens(works), kind))

    def _encode_and_rank(self, works: Sequence[Work], kind: Kind) -> list[Done]:
        ranked = self.engine.rank_tokens(_tokens(works), kind, max(work.k for work in works))
        searches = self._encoded(works, ranked.encoded)
        self._ranked(searches, ranked.queries, ranked.clipped, ranked.result)
        return searches

    def _encoded(self, works: Sequence[Work], encoded: Encoded) -> list[Done]:
        self._metrics.stages(encoded.timings)
        self._metrics.cuts(int(encoded.dropped_tokens.sum()), int(encoded.dropped_terms.sum()), 0)
        return [
            Done(
                vector=encoded.vectors.row(i),
                tokens=int(encoded.tokens[i]),
                dropped_tokens=int(encoded.dropped_tokens[i]),
                dropped_terms=int(encoded.dropped_terms[i]),
                timings={**work.timings, **encoded.timings},
            )
            for i, work in enumerate(works)
        ]

    def _rank(self, searches: Sequence[Done], k: int) -> None:
        vectors = SparseBatch.join(done.vector for done in searches)
        queries, clipped = self.engine.quantize(vectors)
        self._ranked(searches, queries, clipped, self.engine.index.search(queries, k))

    def _ranked(
        self,
        searches: Sequence[Done],
        queries: ImpactBatch,
        clipped: NDArray[np.int64],
        result: SearchResult,
    ) -> None:
        self._metrics.stages(result.timings)
        self._metrics.cuts(0, 0, int(clipped.sum()))
        for row, done in enumerate(searches):
            done.queries, done.result, done.row, done.clipped = (
                queries,
                result,
                row,
                int(clipped[row]),
            )
            done.timings.update(result.timings)
            self._metrics.query_terms.observe(len(done.vector[0]))
            self._metrics.postings_scored.observe(int(result.postings[row]))

    def _finish(self, work: Work, done: Done, waited: int) -> Any:
        """In the pool: the result of a work."""
        done.timings["queue"] = waited
        if not work.k:
            return work.then(done, None)
        answer = self._answer(work, done)
        self._metrics.stages({"fetch": answer.timings["fetch"]})
        return work.then(done, answer)

    def _answer(self, work: Work, done: Done) -> Answer:
        """Ids, documents and contributions of a ranked query."""
        assert done.queries is not None
        assert done.result is not None
        started = time.perf_counter_ns()
        hits = self.engine.hits(
            done.queries, done.result, done.row, work.k, explain=work.explain, fetch=work.fetch
        )
        return Answer(
            hits=hits,
            matched=int(done.result.matched[done.row]),
            postings=int(done.result.postings[done.row]),
            query_terms=len(done.vector[0]),
            dropped_tokens=done.dropped_tokens,
            dropped_terms=done.dropped_terms,
            clipped=done.clipped,
            timings={**done.timings, "fetch": time.perf_counter_ns() - started},
        )

    def _judge(self, work: Work, done: Done) -> tuple[Answer, int]:
        """The same query by the exhaustive reference."""
        assert done.queries is not None
        terms, impacts = done.queries.row(done.row)
        query = ImpactBatch(
            np.array([0, len(terms)], dtype=np.int64), terms, impacts, done.queries.scale
        )
        started = time.perf_counter_ns()
        result = self.engine.index.oracle(query, work.k)
        nanoseconds = time.perf_counter_ns() - started
        return self._answer(work, Done(done.vector, queries=query, result=result)), nanoseconds


def _is_light(work: Work) -> bool:
    return work.k <= FEW and not work.explain


def _tokens(works: Sequence[Work]) -> Tokens:
    parts = [work.tokens for work in works if work.tokens is not None]
    return type(parts[0]).concatenate(parts)
