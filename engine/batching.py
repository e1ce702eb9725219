"""The batching worker: one thread takes whatever waits, up to a budget, and never waits for more to
come.

Brief works are done by the event loop itself while the worker has nothing to do: half a millisecond
goes by until a thread has woken up and given the result back.

The transport hands work in without blocking and awaits it. The queue is bounded: what does not fit
is refused at once. What was cancelled, or whose deadline passed while it waited, is dropped before
any work is done.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..core.errors import DeadlineError, OverloadedError, UnavailableError
from ..service.settings import Batching
from ..service.telemetry.metrics import Metrics

W = TypeVar("W")
D = TypeVar("D")
R = TypeVar("R")

SHORTEST_RETRY, LONGEST_RETRY = 0.01, 10.0  # seconds
BRIEF = 0.002  # seconds; when works take longer than that lately, none is brief


@dataclass(eq=False, slots=True)
class _Entry(Generic[W, R]):
    work: W
    deadline: float  # of time.monotonic
    arrived: int  # of time.perf_counter_ns
    future: asyncio.Future[R]
    thread: int  # of the future's loop
    cost: int | None = None
    weighing: int = 0  # nanoseconds spent on the cost: work, not waiting


class Pace:
    """How fast a queue moves, so that the refused can be told when to come again.

    Attributes:
        each: seconds per work, smoothed; 0 before the first.
    """

    def __init__(self) -> None:
        self.each = 0.0

    def did(self, count: int, seconds: float) -> None:
        """So many works took so long."""
        each = seconds / count
        self.each = each if not self.each else 0.8 * self.each + 0.2 * each

    def refusal(self, waiting: int, wanted: int, queue: int) -> OverloadedError:
        """The error for ``wanted`` works that found no room behind ``waiting`` ones."""
        retry = min(max(self.each * waiting, SHORTEST_RETRY), LONGEST_RETRY)
        return OverloadedError(
            f"the queue is full: {waiting} wait, {wanted} more exceed batching.queue {queue}; "
            f"try again in {retry:.2f} s",
            retry,
        )


class Batcher(Generic[W, D, R]):
    """A bounded queue before one worker thread, and a pool that finishes what the worker has done.

    Args:
        weigh: tells the cost in tokens of each work; called once per work, in the worker, several
            together.
        process: does the works of one batch together.
        finish: makes the result from a work, what was done, and the nanoseconds it waited in the
            queue; called in a thread of the pool, so that the worker goes on with the next batch,
            unless it is light and nothing waits.
        light: tells whether finishing a work takes less time than handing it to another thread is
            worth.
        brief: tells whether doing and finishing it does.
        threads: of the pool.
        settings: sizes of queue and batch.
        metrics: where depth, waiting and batch sizes are recorded.
    """

    def __init__(
        self,
        weigh: Callable[[Sequence[W]], Sequence[int]],
        process: Callable[[Sequence[W]], Sequence[D]],
        finish: Callable[[W, D, int], R],
        light: Callable[[W], bool],
        brief: Callable[[W], bool],
        threads: int,
        settings: Batching,
        metrics: Metrics,
    ) -> None:
        self._weigh, self._process, self._finish = weigh, process, finish
        self._light, self._brief = light, brief
        self._settings, self._metrics = settings, metrics
        self._waiting: deque[_Entry[W, R]] = deque()
        self._wake = threading.Condition()
        self._working = threading.Lock()  # held by whoever does a batch
        self._closed = False
        self._pace = Pace()
        self._thread = threading.Thread(target=self._run, name="csplade-batching", daemon=True)
        self._thread.start()
        self._pool = ThreadPoolExecutor(threads, "csplade-finish")

    def close(self) -> None:
        """Finish what waits, then end the threads; later work is refused. Blocks until then."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        with self._working:  # until the event loop has handed over what it is doing
            self._pool.shutdown()

    async def submit(self, works: Sequence[W], deadline: float) -> list[R]:
        """Queue works together, all or none, and await their results.

        Args:
            works: what to do.
            deadline: moment of ``time.monotonic`` after which nobody waits for the results.

        Returns:
            Result of each work.

        Raises:
            OverloadedError: the queue has not that much room.
            DeadlineError: the deadline passed while it waited.
            UnavailableError: the worker is closed.
        """
        loop = asyncio.get_running_loop()
        arrived, thread = time.perf_counter_ns(), threading.get_ident()
        entries = [
            _Entry[W, R](work, deadline, arrived, loop.create_future(), thread) for work in works
        ]
        here = 0 < self._pace.each <= BRIEF and all(map(self._brief, works))
        with self._wake:
            if self._closed:
                raise UnavailableError("the server is shutting down")
            if len(self._waiting) + len(entries) > self._settings.queue:
                raise self._pace.refusal(len(self._waiting), len(entries), self._settings.queue)
            self._waiting.extend(entries)
            self._metrics.queue_depth.set(len(self._waiting))
            if not here:
                self._wake.notify()
        if here:
            loop.call_soon(self._work_here)  # with all that has come in by then
        try:
            return list(await asyncio.gather(*(entry.future for entry in entries)))
        finally:
            for entry in entries:
                entry.future.cancel()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closed:
                    self._wake.wait()
                if not self._waiting:
                    return
                taken = self._take()
            with self._working:
                self._do(taken)

    def _work_here(self) -> None:
        """Do a batch on the event loop, unless one is being done, or not all that waits is brief."""
        if not self._working.acquire(blocking=False):
            return  # whoever holds it looks again at what waits
        try:
            with self._wake:
                taken = (
                    self._take() if all(self._brief(entry.work) for entry in self._waiting) else []
                )
            self._do(taken)
        finally:
            self._working.release()
        with self._wake:
            if self._waiting:
                self._wake.notify()

    def _take(self) -> list[_Entry[W, R]]:
        count = min(len(self._waiting), self._settings.queries)
        return [self._waiting.popleft() for _ in range(count)]

    def _do(self, taken: Sequence[_Entry[W, R]]) -> None:
        batch = self._fit([entry for entry in taken if self._alive(entry)])
        if batch:
            self._answer(batch)

    def _alive(self, entry: _Entry[W, R]) -> bool:
        if entry.future.cancelled():
            return False
        if time.monotonic() < entry.deadline:
            return True
        waited = (time.perf_counter_ns() - entry.arrived) * 1e-9
        _settle(entry, DeadlineError(f"the deadline passed after {waited:.3f} s in the queue"))
        return False

    def _fit(self, entries: list[_Entry[W, R]]) -> list[_Entry[W, R]]:
        """The first entries that the token budget holds, at least one; the rest goes back to the
        queue.
        """
        fresh = [entry for entry in entries if entry.cost is None]
        if fresh:
            started = time.perf_counter_ns()
            try:
                costs = self._weigh([entry.work for entry in fresh])
            except Exception as error:
                for entry in fresh:
                    _settle(entry, error)
                costs = [0] * len(fresh)
                entries = [entry for entry in entries if entry.cost is not None]
            for entry, cost in zip(fresh, costs, strict=True):
                entry.cost = cost
                entry.weighing = time.perf_counter_ns() - started
        tokens, count = 0, 0
        for entry in entries:
            tokens += entry.cost or 0
            if count and tokens > self._settings.tokens:
                break
            count += 1
        with self._wake:
            self._waiting.extendleft(reversed(entries[count:]))
            self._metrics.queue_depth.set(len(self._waiting))
        return entries[:count]

    def _answer(self, batch: list[_Entry[W, R]]) -> None:
        started = time.perf_counter_ns()
        self._metrics.batch_queries.observe(len(batch))
        if tokens := sum(entry.cost or 0 for entry in batch):
            self._metrics.batch_tokens.observe(tokens)
        done = self._results([entry.work for entry in batch])
        self._pace.did(len(batch), (time.perf_counter_ns() - started) * 1e-9)
        for entry, one in zip(batch, done, strict=True):
            waited = started - entry.arrived - entry.weighing
            self._metrics.stages({"queue": waited})
            if isinstance(one, Exception):
                _settle(entry, one)
            elif self._light(entry.work) and not self._waiting:
                self._finished(entry, one, waited)  # another thread would only be later
            else:
                self._pool.submit(self._finished, entry, one, waited)

    def _finished(self, entry: _Entry[W, R], done: D, waited: int) -> None:
        if entry.future.cancelled():
            return
        try:
            _settle(entry, self._finish(entry.work, done, waited))
        except Exception as error:
            _settle(entry, error)

    def _results(self, works: Sequence[W]) -> Sequence[D | Exception]:
        """What was done of a batch; when it fails, each work is tried alone: only the culprits
        fail.
        """
        try:
            return self._process(works)
        except Exception as error:
            if len(works) == 1:
                return [error]
            return [result for work in works for result in self._results([work])]


def _settle(entry: _Entry[W, R], outcome: Exception | R) -> None:
    """Hand the outcome to the waiting coroutine, in its own thread."""

    def settle() -> None:
        if entry.future.done():
            return
        if isinstance(outcome, Exception):
            entry.future.set_exception(outcome)
        else:
            entry.future.set_result(outcome)

    if entry.thread == threading.get_ident():
        settle()
    # A loop that is closed has nobody waiting any more.
    elif not (loop := entry.future.get_loop()).is_closed():
        loop.call_soon_threadsafe(settle)
