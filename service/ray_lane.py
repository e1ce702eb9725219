"""What the ingress asks of a deployment: alone while there is little to ask, several in one message when there is much."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

MOST = 64  # questions in one message


class Lane(Generic[Q, A]):
    """A message through Ray costs more than the search it asks for, so a busy lane lets questions share one.

    Args:
        send: carries questions and gives the answer of each, or the error it is refused with; cancelled when nobody
            waits for any of them.

    Attributes:
        messages: that may be on their way at once; what is asked meanwhile shares the next ones.
    """

    messages = 1

    def __init__(self, send: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]]) -> None:
        self._send = send
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._senders: set[asyncio.Task[None]] = set()

    async def ask(self, question: Q) -> A:
        """The answer; raises what ``send`` raises or gives for this question."""
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if len(self._senders) < self.messages:
            sender = asyncio.create_task(self._empty())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        try:
            return await future
        finally:
            future.cancel()

    async def _empty(self) -> None:
        while self._waiting:
            share = -(-len(self._waiting) // self.messages)
            taken = [self._waiting.popleft() for _ in range(min(MOST, share))]
            if asked := [one for one in taken if not one[1].cancelled()]:
                await self._message(asked)

    async def _message(self, asked: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        left, message = len(asked), asyncio.ensure_future(self._send([question for question, _ in asked]))

        def answered_or_gone(_: asyncio.Future[A]) -> None:
            nonlocal left
            left -= 1
            if not left:
                message.cancel()

        for _, future in asked:
            future.add_done_callback(answered_or_gone)
        (outcome,) = await asyncio.gather(message, return_exceptions=True)
        answers: Sequence[A | BaseException] = (
            [outcome] * len(asked) if isinstance(outcome, BaseException) else outcome
        )
        for (_, future), answer in zip(asked, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
