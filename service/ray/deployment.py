"""DeploymentClient: call the replicas of a deployment behind the ingress."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RequestCancelledError,
)

from ...core.errors import CspladeError, OverloadedError, UnavailableError
from .channel import ChannelLostError, Channels

REPLICA_LOST = (
    ChannelLostError,
    DeploymentUnavailableError,
    RayActorError,
    RequestCancelledError,
)
PROBE_SECONDS = 2.0  # a deployment that misses two probes in a row counts as down
RETRY_SECONDS = 1.0  # for callers that Ray's own bound of ongoing requests rejects


class DeploymentClient:
    """A deployment, called through channels to its replicas on this machine, or its handle.

    Args:
        name: For errors.
        handle: Ray's.
        folder: Where its replicas on this machine listen; None if they do not.

    Attributes:
        name: For errors.
        up: Whether it answered lately; while it does not, calls are rejected at once.
    """

    def __init__(self, name: str, handle: Any, folder: Path | None = None) -> None:
        self.name = name
        self.up = True
        self._misses = 0
        self._handle = handle.options(
            _by_reference=False, request_serialization="pickle", response_serialization="pickle"
        )
        self._pending: set[Any] = set()
        self._channels = None if folder is None else Channels(folder)

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of any replica, and once more of another if the first one dies.

        Raises:
            UnavailableError: no replica answers.
            OverloadedError: the replicas have as many requests as Ray lets them.
            CspladeError: what the replica returned as a value.
        """
        for attempt in (1, 2):
            if not self.up:
                break
            try:
                result = await self._once_nearby(method, arguments)
            except REPLICA_LOST:
                if attempt == 1:
                    continue
                break
            except BackPressureError as error:
                raise OverloadedError(f"{self.name}: {error}", RETRY_SECONDS) from None
            if isinstance(result, CspladeError):
                raise result
            return result
        raise UnavailableError(f"{self.name}: no replica answers; retry soon")

    async def probe(self) -> tuple[str, ...]:
        """Return the versions that a replica holds, newest first; () if none answers."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                versions: tuple[str, ...] = await self._once("versions", ())
        except (*REPLICA_LOST, BackPressureError, TimeoutError):
            self._misses += 1
            if self._misses == 2:
                self.up = False
                for response in tuple(self._pending):
                    response.cancel()
                if self._channels is not None:
                    self._channels.close()
            return ()
        self._misses, self.up = 0, True
        if self._channels is not None:
            await self._channels.refresh()
        return versions

    async def _once_nearby(self, method: str, arguments: Sequence[Any]) -> Any:
        channel = None if self._channels is None else self._channels.choose()
        if channel is None:
            return await self._once(method, arguments)
        return await channel.call(method, arguments)

    async def _once(self, method: str, arguments: Sequence[Any]) -> Any:
        response = getattr(self._handle, method).remote(*arguments)
        self._pending.add(response)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()  # nobody waits for it: the replica need not go on
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise RequestCancelledError from None
            raise
        finally:
            self._pending.discard(response)
