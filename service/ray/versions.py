"""The versions that a replica holds: the newest, and the one before while requests ask for it.

So an update goes through without a moment in which some replicas cannot answer. A request names the
version it wants and is answered by that version in every replica, or not at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ...engine.local import LocalBackend
from ..settings import Settings
from .messages import MovedError

log = logging.getLogger(__name__)

RETIRE_SECONDS = 60.0  # without a request, after which the version before the newest is closed
LAST_REQUESTS_SECONDS = 5.0  # that requests in flight have when two newer versions are loaded


class Target(BaseModel):
    """What a replica serves: the ``user_config`` of every deployment that loads something.

    Attributes:
        version: Any name; a request is answered by replicas of one version.
        index: Directory of the index; None for that of the settings.
        model: Directory or name of the encoder; None for that of the settings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    version: str = "1"
    index: Path | None = None
    model: str | None = None

    def settings(self, settings: Settings, *, with_encoder: bool) -> Settings:
        """Return the settings for what is to be served."""
        model = {
            "path": self.model or settings.model.path,
            "enabled": with_encoder and settings.model.enabled,
        }
        return settings.model_copy(
            update={
                "index": self.index or settings.index,
                "model": settings.model.model_copy(update=model),
            }
        )


@dataclass(eq=False, slots=True)
class _Loaded:
    version: str
    backend: LocalBackend
    last_request: float = field(default_factory=time.monotonic)
    closed: bool = False


class Versions:
    """Load, hold and retire versions.

    Args:
        load: Makes the backend of a target; runs in a thread.
        retire_seconds: Time without a request, after which the version before the newest is closed.
    """

    def __init__(
        self, load: Callable[[Target], LocalBackend], retire_seconds: float = RETIRE_SECONDS
    ) -> None:
        self._load, self._retire_seconds = load, retire_seconds
        self._held: list[_Loaded] = []  # newest first
        self._wanted: Target
        self._following: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the held versions, newest first."""
        return tuple(one.version for one in self._held)

    @property
    def newest(self) -> LocalBackend:
        """Backend of the newest version."""
        return self._held[0].backend

    def backend(self, version: str) -> LocalBackend:
        """Return the backend of a version. Raises MovedError if it is not held."""
        for one in self._held:
            if one.version == version:
                one.last_request = time.monotonic()
                return one.backend
        held = ", ".join(self.names)
        raise MovedError(f"version: {version} is not served here; held are {held}", self.names)

    async def update(self, target: Target) -> None:
        """Serve another target: at once if it is the first, else as soon as it is loaded."""
        self._wanted = target
        if not self._held:
            self._held = [_Loaded(target.version, await asyncio.to_thread(self._load, target))]
        elif self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        """Load the wanted version beside those held, until nothing newer is wanted."""
        while (target := self._wanted).version != self._held[0].version:
            try:
                backend = await asyncio.to_thread(self._load, target)
            except Exception:
                log.exception(
                    "version %s cannot be loaded, %s stays", target.version, self._held[0].version
                )
                if self._wanted is target:
                    return
                continue
            log.info("loaded", extra={"version": target.version, "before": self._held[0].version})
            newest, *rest = self._held
            self._held = [_Loaded(target.version, backend), newest]
            for old, seconds in (
                *((one, LAST_REQUESTS_SECONDS) for one in rest),
                (newest, self._retire_seconds),
            ):
                task = asyncio.create_task(self._retire(old, seconds))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)

    async def _retire(self, old: _Loaded, seconds: float) -> None:
        """Close a version once nobody has asked for it in so many seconds."""
        while (idle := time.monotonic() - old.last_request) < seconds:
            await asyncio.sleep(seconds - idle)
        if old in self._held:
            self._held.remove(old)
        if not old.closed:
            old.closed = True
            await asyncio.to_thread(old.backend.close)
