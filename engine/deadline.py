"""Deadlines: the moment after which nobody waits for a result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..core.errors import DeadlineError


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of ``time.monotonic``."""

    moment: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline that is so many seconds away."""
        return cls(time.monotonic() + seconds)

    @property
    def remaining(self) -> float:
        """Seconds left; 0 once the deadline has passed."""
        return max(0.0, self.moment - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self.moment

    def check(self, where: str) -> None:
        """Raise DeadlineError, naming the stage, if the deadline has passed."""
        if self.expired:
            raise DeadlineError(f"deadline: exceeded before {where}")

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cancel the block at the deadline and raise DeadlineError.

        Raises:
            DeadlineError: the block did not end in time.
        """
        seconds = self.remaining
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise DeadlineError(f"deadline: exceeded, no answer within {seconds:.3f} s") from None
