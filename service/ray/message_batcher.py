"""What the ingress asks of a deployment: alone while there is little to ask, several in one message
when there is much.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from ...engine.batching import Pace

Q = TypeVar("Q")
A = TypeVar("A")

MOST = 64  # questions in one message


class _Asked(NamedTuple, Generic[Q, A]):
    question: Q
    future: asyncio.Future[tuple[A, int]]
    arrived: int  # of time.perf_counter_ns


class Lane(Generic[Q, A]):
    """A message through Ray costs more than the search it asks for, so a busy lane lets questions
    share one.

    Args:
        send: carries questions and gives the answer of each, or the error it is refused with;
            cancelled when nobody waits for any of them.
        queue: questions that may wait.

    Attributes:
        messages: that may be on their way at once; what is asked meanwhile shares the next ones.
    """

    messages = 1

    def __init__(
        self, send: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]], queue: int
    ) -> None:
        self._send, self._queue = send, queue
        self._waiting: deque[_Asked[Q, A]] = deque()
        self._sending = 0
        self._senders: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive
        self._pace = Pace()

    @property
    def waiting(self) -> int:
        """Questions that no message has taken yet."""
        return len(self._waiting)

    def need_room(self) -> None:
        """Raises OverloadedError when as many questions wait as may."""
        if self.waiting >= self._queue:
            raise self._pace.refusal(self.waiting, 1, self._queue)

    def ask(self, question: Q) -> asyncio.Future[tuple[A, int]]:
        """Queue a question; gives the answer, and the nanoseconds that the question waited for its
        message.

        To cancel the future is to give the question up.

        Raises:
            OverloadedError: at once, when as many questions wait as may.
            When awaited, what ``send`` raises or gives for this question.
        """
        self.need_room()
        future: asyncio.Future[tuple[A, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Asked(question, future, time.perf_counter_ns()))
        if self._sending < self.messages:
            self._sending += 1
            sender = asyncio.create_task(self._empty())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return future

    async def _empty(self) -> None:
        try:
            while self._waiting:
                share = -(-len(self._waiting) // self.messages)
                taken = [self._waiting.popleft() for _ in range(min(MOST, share))]
                if asked := [one for one in taken if not one.future.cancelled()]:
                    await self._message(asked)
        finally:
            # In the step that found nothing waiting: whoever asks from now on starts a sender.
            self._sending -= 1

    async def _message(self, asked: Sequence[_Asked[Q, A]]) -> None:
        started = time.perf_counter_ns()
        left, message = (
            len(asked),
            asyncio.ensure_future(self._send([one.question for one in asked])),
        )

        def answered_or_gone(_: asyncio.Future[tuple[A, int]]) -> None:
            nonlocal left
            left -= 1
            if not left:
                message.cancel()

        for one in asked:
            one.future.add_done_callback(answered_or_gone)
        (outcome,) = await asyncio.gather(message, return_exceptions=True)
        self._pace.did(len(asked) * self.messages, (time.perf_counter_ns() - started) * 1e-9)
        answers: Sequence[A | BaseException] = (
            [outcome] * len(asked) if isinstance(outcome, BaseException) else outcome
        )
        for one, answer in zip(asked, answers, strict=True):
            if one.future.done():
                continue
            if isinstance(answer, BaseException):
                one.future.set_exception(answer)
            else:
                one.future.set_result((answer, started - one.arrived))
