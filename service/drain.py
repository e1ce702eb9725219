"""The states of a server: loading, ready, draining; and the requests in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..core.errors import UnavailableError

T = TypeVar("T")


class Lifecycle:
    """Count requests in flight and reject new ones unless the server is ready.

    Use it on one event loop.

    Attributes:
        draining: Set when draining begins: streams then end after what is in flight.
        idle: Set while no request is in flight.
    """

    def __init__(self) -> None:
        self._loading = True
        self._rejecting = False
        self._in_flight = 0
        self.draining = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def in_flight(self) -> int:
        """Requests between arrival and answer."""
        return self._in_flight

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return not self._loading and not self._rejecting

    def loaded(self) -> None:
        """Accept requests from now on."""
        self._loading = False

    def drain(self, *, reject: bool = True) -> None:
        """End streams, and reject new requests unless others are to answer them first."""
        self._rejecting = reject
        self.draining.set()

    def check(self) -> None:
        """Raise UnavailableError unless requests are accepted."""
        if self._rejecting:
            raise UnavailableError("the server is shutting down; retry with another one")
        if self._loading:
            raise UnavailableError("the server is still loading; retry later")

    @contextmanager
    def track(self, count: int = 1) -> Iterator[None]:
        """Count so many requests as in flight while the block runs."""
        self._in_flight += count
        self.idle.clear()
        try:
            yield
        finally:
            self._in_flight -= count
            if not self._in_flight:
                self.idle.set()


async def until_drained(
    read: Callable[[], Awaitable[T | None]], draining: asyncio.Event
) -> AsyncIterator[T]:
    """Yield the messages of a stream until it ends or the server drains.

    Args:
        read: Returns the next message, None after the last.
        draining: Set when the server drains.
    """
    drained = asyncio.ensure_future(draining.wait())
    try:
        while True:
            coming = asyncio.ensure_future(read())
            await asyncio.wait((coming, drained), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                return
            if (item := coming.result()) is None:
                return
            yield item
    finally:
        drained.cancel()
