"""The batching worker: one thread takes what is queued, up to a budget, without waiting.

A transport enqueues tasks without blocking and awaits their results. The queue is bounded, and so
is everything after it: tasks that are being finished count as queued, and what does not fit is
rejected at once. A task that was cancelled, or whose deadline passed, is dropped before further
work is done.

Urgent tasks go before the others; a batch holds tasks of one urgency. After several urgent batches
one other batch runs, so that neither starves.

While the worker is idle, the event loop runs small tasks itself: waking a thread and returning to
the loop takes half a millisecond.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ..core.errors import DeadlineError, OverloadedError, UnavailableError
from .deadline import Deadline
from .observer import Observer
from .policy import INLINE_SECONDS, RETRY_SECONDS, URGENT_BATCHES

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """Sizes of the queue and of a batch.

    Attributes:
        queue: Tasks that may be queued or being finished.
        tokens: Tokens in a batch; a single text may have more.
        background_tokens: The same for tasks that are not urgent, because urgent ones wait for
            them.
        characters: Characters of text that are tokenized for a batch; a single text may have more.
        tasks: Tasks in a batch.
        threads: Threads that finish tasks.
    """

    queue: int = 512
    tokens: int = 8192
    background_tokens: int = 1024
    characters: int = 65_536
    tasks: int = 64
    threads: int = 2


class BatchJob(Protocol[T_contra, R_co]):
    """What the worker does with tasks."""

    def is_urgent(self, task: T_contra) -> bool:
        """Whether the task goes before those that are not urgent."""

    def characters(self, task: T_contra) -> int:
        """Return the length of the task's text, 0 without one."""

    def weigh(self, tasks: Sequence[T_contra]) -> Sequence[int]:
        """Return the cost of each task in tokens; called once per task, in the worker."""

    def process(self, tasks: Sequence[T_contra]) -> None:
        """Do the work of one batch; the tasks keep what was done."""

    def finish(self, task: T_contra, waited: int) -> R_co:
        """Return the result of a processed task that was queued for so many nanoseconds.

        Called by the worker itself if ``finishes_inline``, else in a thread of the pool, so that
        the worker goes on with the next batch.
        """

    def finishes_inline(self, task: T_contra) -> bool:
        """Whether finishing takes little time, always: it waits for no disk."""

    def runs_inline(self, task: T_contra) -> bool:
        """Whether processing and finishing do."""


class Pace:
    """Measure how fast a queue moves, to tell rejected callers when to retry."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Seconds per task, smoothed; 0 before the first."""

    def record(self, tasks: int, seconds: float) -> None:
        """Record that so many tasks took so long."""
        each = seconds / tasks
        self.seconds = each if not self.seconds else 0.8 * self.seconds + 0.2 * each

    def rejection(self, queued: int, wanted: int, limit: int) -> OverloadedError:
        """Return the error for ``wanted`` tasks that do not fit behind ``queued`` ones."""
        shortest, longest = RETRY_SECONDS
        retry = min(max(self.seconds * queued, shortest), longest)
        return OverloadedError(
            f"batching.queue: {queued} queued and {wanted} more exceed {limit}; "
            f"retry after {retry:.2f} s",
            retry,
        )


class _Submission(Generic[R]):
    """Tasks that were enqueued together, and the future of their outcomes in order."""

    def __init__(self, count: int) -> None:
        self.arrived = time.perf_counter_ns()
        self.loop, self.thread = asyncio.get_running_loop(), threading.get_ident()
        self.future: asyncio.Future[list[R | Exception]] = self.loop.create_future()
        self._outcomes: list[Any] = [None] * count
        self._missing = count

    def expire(self) -> None:
        """End the wait: the deadline has passed."""
        if not self.future.done():
            self.future.set_exception(_late(self.arrived))

    def settle(self, place: int, outcome: R | Exception) -> None:
        """Keep an outcome; called in the thread of the loop, once for each place."""
        self._outcomes[place] = outcome
        self._missing -= 1
        if not self._missing and not self.future.done():
            self.future.set_result(self._outcomes)


@dataclass(eq=False, slots=True)
class _Entry(Generic[T, R]):
    task: T
    deadline: Deadline
    submission: _Submission[R]
    place: int
    cost: int | None = None
    weighing: int = 0  # nanoseconds spent on the cost, which are not waiting


class Batcher(Generic[T, R]):
    """A bounded queue, one worker thread behind it, and a pool that finishes tasks.

    Args:
        job: What is done with tasks.
        options: Sizes of queue and batch.
        observer: Receives queue depth, waiting times and batch sizes.
    """

    def __init__(self, job: BatchJob[T, R], options: BatchOptions, observer: Observer) -> None:
        self._job, self._options, self._observer = job, options, observer
        self._urgent: deque[_Entry[T, R]] = deque()
        self._background: deque[_Entry[T, R]] = deque()
        self._urgent_batches = 0  # since the last background batch
        self._finishing = 0
        self._changed = threading.Condition()
        self._working = threading.Lock()  # held by the thread that runs a batch
        self._closed = False
        self._pace = Pace()
        self._thread = threading.Thread(target=self._run, name="csplade-batching", daemon=True)
        self._thread.start()
        self._pool = ThreadPoolExecutor(options.threads, "csplade-finish")

    def close(self) -> None:
        """Finish the queued tasks, then end the threads. Blocks; later tasks are rejected."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        with self._working:  # the event loop may still be running a batch
            self._pool.shutdown()

    async def submit(self, tasks: Sequence[T], deadline: Deadline) -> list[R]:
        """Enqueue tasks together and await their results.

        Raises:
            OverloadedError, DeadlineError, UnavailableError: as of :meth:`submit_each`.
            Exception: the first error of a task.
        """
        outcomes = await self.submit_each(tasks, deadline)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return outcomes  # type: ignore[return-value]

    async def submit_each(self, tasks: Sequence[T], deadline: Deadline) -> list[R | Exception]:
        """Enqueue tasks together, all or none, and await the result or the error of each.

        The error is a DeadlineError if the deadline passed before the task was finished.

        Raises:
            OverloadedError: the queue has no room for all of them.
            DeadlineError: the deadline passed while they were worked on.
            UnavailableError: the batcher is closed.
        """
        if not tasks:
            return []
        # Not _Submission[R](...): calling a subscripted class takes three times as long.
        submission: _Submission[R] = _Submission(len(tasks))
        entries: list[_Entry[T, R]] = [
            _Entry(task, deadline, submission, place) for place, task in enumerate(tasks)
        ]
        inline = self._is_quick(len(tasks)) and all(map(self._job.runs_inline, tasks))
        with self._changed:
            if self._closed:
                raise UnavailableError("the server is shutting down; retry with another one")
            depth = self._depth + self._finishing
            if depth + len(entries) > self._options.queue:
                raise self._pace.rejection(depth, len(entries), self._options.queue)
            for entry in entries:
                self._queue_of(entry).append(entry)
            self._observer.queued(self._depth)
            if not inline:
                self._changed.notify()
        if inline:
            submission.loop.call_soon(self._run_inline)  # with everything enqueued by then
        timer = submission.loop.call_later(deadline.remaining, submission.expire)
        try:
            return await submission.future
        finally:
            timer.cancel()
            submission.future.cancel()

    def _is_quick(self, tasks: int) -> bool:
        """Whether the event loop may run so many tasks itself."""
        return 0 < self._pace.seconds * tasks <= INLINE_SECONDS

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._depth and not self._closed:
                    self._changed.wait()
                if not self._depth:
                    return
                taken = self._dequeue()
            with self._working:
                self._run_batch(taken)

    def _run_inline(self) -> None:
        """Run a batch on the event loop, if none runs and all queued tasks are small."""
        if not self._working.acquire(blocking=False):
            return  # whoever holds the lock looks at the queue again
        try:
            with self._changed:
                queued = (*self._urgent, *self._background)
                inline = self._is_quick(len(queued)) and all(
                    self._job.runs_inline(entry.task) for entry in queued
                )
                taken = self._dequeue() if inline else []
            self._run_batch(taken)
        finally:
            self._working.release()
        with self._changed:
            if self._depth:
                self._changed.notify()

    @property
    def _depth(self) -> int:
        return len(self._urgent) + len(self._background)

    def _queue_of(self, entry: _Entry[T, R]) -> deque[_Entry[T, R]]:
        return self._urgent if self._job.is_urgent(entry.task) else self._background

    def _dequeue(self) -> list[_Entry[T, R]]:
        """Take tasks of one urgency, as many as fit into the text that a batch may tokenize."""
        background_due = self._background and self._urgent_batches >= URGENT_BATCHES
        if self._urgent and not background_due:
            queue = self._urgent
            self._urgent_batches += 1
        else:
            queue = self._background
            self._urgent_batches = 0
        taken: list[_Entry[T, R]] = []
        characters = 0
        while queue and len(taken) < self._options.tasks:
            characters += self._job.characters(queue[0].task)
            if taken and characters > self._options.characters:
                break
            taken.append(queue.popleft())
        return taken

    def _run_batch(self, taken: Sequence[_Entry[T, R]]) -> None:
        batch = self._fit([entry for entry in taken if self._wanted(entry)])
        if not batch:
            return
        started = time.perf_counter_ns()
        self._observer.batch(len(batch), sum(entry.cost or 0 for entry in batch))
        outcomes = self._process([entry.task for entry in batch])
        self._pace.record(len(batch), (time.perf_counter_ns() - started) * 1e-9)
        finished: list[tuple[_Entry[T, R], R | Exception]] = []
        for entry, error in zip(batch, outcomes, strict=True):
            waited = started - entry.submission.arrived - entry.weighing
            self._observer.stages({"queue": waited})
            if error is not None:
                finished.append((entry, error))
            elif self._job.finishes_inline(entry.task):
                finished += self._finish(entry, waited)
            else:
                with self._changed:
                    self._finishing += 1
                self._pool.submit(self._finish_pooled, entry, waited)
        _settle(finished)

    def _wanted(self, entry: _Entry[T, R]) -> bool:
        """Whether anybody still waits for the task; a passed deadline settles it."""
        if entry.submission.future.cancelled():
            return False
        if not entry.deadline.expired:
            return True
        _settle([(entry, _late(entry.submission.arrived))])
        return False

    def _fit(self, entries: list[_Entry[T, R]]) -> list[_Entry[T, R]]:
        """Return the first entries that the token budget holds, at least one; requeue the rest."""
        fresh = [entry for entry in entries if entry.cost is None]
        if fresh:
            started = time.perf_counter_ns()
            costs = self._weigh([entry.task for entry in fresh])
            spent = time.perf_counter_ns() - started
            for entry, cost in zip(fresh, costs, strict=True):
                if isinstance(cost, Exception):
                    _settle([(entry, cost)])
                else:
                    entry.cost, entry.weighing = cost, spent
            entries = [entry for entry in entries if entry.cost is not None]
        if not entries:
            return entries
        urgent = self._job.is_urgent(entries[0].task)
        budget = self._options.tokens if urgent else self._options.background_tokens
        tokens, count = 0, 0
        for entry in entries:
            tokens += entry.cost or 0
            if count and tokens > budget:
                break
            count += 1
        with self._changed:
            self._queue_of(entries[0]).extendleft(reversed(entries[count:]))
            self._observer.queued(self._depth)
        return entries[:count]

    def _weigh(self, tasks: Sequence[T]) -> Sequence[int | Exception]:
        """Weigh tasks; if that fails, each task alone, so that only the culprits fail."""
        try:
            return self._job.weigh(tasks)
        except Exception as error:
            if len(tasks) == 1:
                return [error]
            return [cost for task in tasks for cost in self._weigh([task])]

    def _process(self, tasks: Sequence[T]) -> list[Exception | None]:
        """Process a batch; if that fails, each task alone, so that only the culprits fail."""
        try:
            self._job.process(tasks)
        except Exception as error:
            if len(tasks) == 1:
                return [error]
            return [outcome for task in tasks for outcome in self._process([task])]
        return [None] * len(tasks)

    def _finish_pooled(self, entry: _Entry[T, R], waited: int) -> None:
        try:
            _settle(self._finish(entry, waited))
        finally:
            with self._changed:
                self._finishing -= 1

    def _finish(self, entry: _Entry[T, R], waited: int) -> list[tuple[_Entry[T, R], R | Exception]]:
        """Return the entry with its outcome, unless nobody waits for it."""
        if not self._wanted(entry):
            return []
        try:
            return [(entry, self._job.finish(entry.task, waited))]
        except Exception as error:
            return [(entry, error)]


def _late(arrived: int) -> DeadlineError:
    """Return the error of a task that arrived then, of time.perf_counter_ns."""
    waited = (time.perf_counter_ns() - arrived) * 1e-9
    return DeadlineError(f"deadline: exceeded after {waited:.3f} s in the server")


def _settle(outcomes: Sequence[tuple[_Entry[T, R], R | Exception]]) -> None:
    """Hand outcomes to the coroutines that await them, in the threads of their loops."""
    loops = {entry.submission.loop: entry.submission.thread for entry, _ in outcomes}
    for loop, thread in loops.items():

        def settle(loop: asyncio.AbstractEventLoop = loop) -> None:
            for entry, outcome in outcomes:
                if entry.submission.loop is loop:
                    entry.submission.settle(entry.place, outcome)

        if thread == threading.get_ident():
            settle()
        elif not loop.is_closed():  # nobody awaits on one that is
            loop.call_soon_threadsafe(settle)
