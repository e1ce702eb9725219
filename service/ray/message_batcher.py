"""MessageBatcher: requests to a busy deployment share messages, which are expensive."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from ...engine.batching import Pace

Q = TypeVar("Q")
A = TypeVar("A")

MAX_REQUESTS = 64  # in one message


class _Entry(NamedTuple, Generic[Q, A]):
    request: Q
    future: asyncio.Future[tuple[A, int]]
    arrived: int  # of time.perf_counter_ns


class MessageBatcher(Generic[Q, A]):
    """Send each request at once while few messages are in flight; else let requests share the next.

    Args:
        send: Sends requests in one message; returns the response of each, or its error. Cancelled
            if nobody waits for any of them.
        limit: Requests that may be queued.

    Attributes:
        messages: Messages that may be in flight at once.
    """

    messages = 1

    def __init__(
        self, send: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]], limit: int
    ) -> None:
        self._send, self._limit = send, limit
        self._queued: deque[_Entry[Q, A]] = deque()
        self._sending = 0
        self._senders: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive
        self._pace = Pace()

    @property
    def queued(self) -> int:
        """Requests that are in no message yet."""
        return len(self._queued)

    def check_room(self, wanted: int = 1) -> None:
        """Raise OverloadedError if the queue cannot take so many requests."""
        if self.queued + wanted > self._limit:
            raise self._pace.rejection(self.queued, wanted, self._limit)

    def submit(self, request: Q) -> asyncio.Future[tuple[A, int]]:
        """Enqueue a request.

        Returns:
            A future of the response and the nanoseconds that the request was queued. Cancelling it
            gives the request up. It raises what ``send`` raises or returns for this request.

        Raises:
            OverloadedError: the queue is full.
        """
        self.check_room()
        future: asyncio.Future[tuple[A, int]] = asyncio.get_running_loop().create_future()
        self._queued.append(_Entry(request, future, time.perf_counter_ns()))
        if self._sending < self.messages:
            self._sending += 1
            sender = asyncio.create_task(self._drain())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return future

    async def _drain(self) -> None:
        try:
            while self._queued:
                share = -(-len(self._queued) // self.messages)
                taken = [self._queued.popleft() for _ in range(min(MAX_REQUESTS, share))]
                if wanted := [entry for entry in taken if not entry.future.cancelled()]:
                    await self._message(wanted)
        finally:
            # In the same step that found the queue empty: the next request starts a sender.
            self._sending -= 1

    async def _message(self, entries: Sequence[_Entry[Q, A]]) -> None:
        started = time.perf_counter_ns()
        left = len(entries)
        message = asyncio.ensure_future(self._send([entry.request for entry in entries]))

        def settled(_: asyncio.Future[tuple[A, int]]) -> None:
            nonlocal left
            left -= 1
            if not left:
                message.cancel()

        for entry in entries:
            entry.future.add_done_callback(settled)
        (outcome,) = await asyncio.gather(message, return_exceptions=True)
        self._pace.record(len(entries) * self.messages, (time.perf_counter_ns() - started) * 1e-9)
        responses: Sequence[A | BaseException] = (
            [outcome] * len(entries) if isinstance(outcome, BaseException) else outcome
        )
        for entry, response in zip(entries, responses, strict=True):
            if entry.future.done():
                continue
            if isinstance(response, BaseException):
                entry.future.set_exception(response)
            else:
                entry.future.set_result((response, started - entry.arrived))
