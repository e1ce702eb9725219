"""What a request says about itself, and whether its caller is still there."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from ...core.errors import InputError
from ..admission import RequestContext

LONGEST_TIMEOUT_MS = 10**10 - 1  # Connect allows ten digits


def context_of(method: str, request: Request) -> tuple[RequestContext, InputError | None]:
    """Return the context of a request, and the complaint about its timeout if it is unusable."""
    headers = dict(request.headers)
    client = request.client
    peer = f"http:{client.host}:{client.port}" if client else "http"
    try:
        remaining, problem = _timeout(request), None
    except InputError as error:
        remaining, problem = None, error
    return RequestContext.create(method, headers, peer, remaining), problem


def _timeout(request: Request) -> float | None:
    """Return the seconds that the caller waits, None for ever."""
    milliseconds = request.headers.get("connect-timeout-ms")
    if milliseconds is not None:
        if not (milliseconds.isascii() and milliseconds.isdigit() and len(milliseconds) <= 10):
            raise InputError(
                f"connect-timeout-ms: {milliseconds[:60]!r} is not a number of at most 10 digits"
            )
        return int(milliseconds) / 1000
    seconds = request.headers.get("x-timeout-seconds")
    if seconds is None:
        return None
    try:
        value = float(seconds)
    except ValueError:
        value = -1.0
    if not 0 <= value <= LONGEST_TIMEOUT_MS / 1000:
        raise InputError(
            f"x-timeout-seconds: {seconds[:60]!r} is not a number from 0 to "
            f"{LONGEST_TIMEOUT_MS // 1000}"
        )
    return value


class DisconnectWatch:
    """Cancels the task that made it when the caller disconnects.

    Start it once the body is read: it takes what the server tells from then on.
    """

    def __init__(self, request: Request) -> None:
        self._request, self._disconnected = request, False
        task = asyncio.current_task()
        assert task is not None
        self._caller = task
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch from now on."""
        self._task = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Watch no longer."""
        if self._task is not None:
            self._task.cancel()

    def absorb_cancellation(self) -> None:
        """Call it on CancelledError: go on if the watch caused it, else raise it again."""
        if not self._disconnected:
            raise asyncio.CancelledError
        self._caller.uncancel()

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._disconnected = True
        self._caller.cancel()
