"""What the engine reports while it works. ``service/telemetry/metrics.py`` records it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..core.results import Cut, WriteResult
from ..index import IndexManifest


class Observer(Protocol):
    """Receives measurements; implementations return quickly and never raise."""

    def queued(self, depth: int) -> None:
        """Report the number of tasks in the queue."""

    def batch(self, tasks: int, tokens: int) -> None:
        """Report a batch that starts: its tasks, and the tokens of its texts."""

    def stages(self, timings: Mapping[str, int]) -> None:
        """Report durations of stages in nanoseconds; 0 means that a stage did not happen."""

    def cut(self, cut: Cut) -> None:
        """Report what caps removed."""

    def ranked(self, terms: int, postings: int) -> None:
        """Report a ranked query: its terms, and the postings read for it."""

    def filtered(self, hits: int, misses: int, nbytes: int) -> None:
        """Report look-ups of evaluated filters since the last report, and the bytes of all."""

    def committed(
        self, results: Sequence[WriteResult], seconds: float, index: IndexManifest
    ) -> None:
        """Report a write: what became of its documents, its duration, and the index after it."""


class NullObserver:
    """Ignores every measurement."""

    def queued(self, depth: int) -> None:
        """Ignore."""

    def batch(self, tasks: int, tokens: int) -> None:
        """Ignore."""

    def stages(self, timings: Mapping[str, int]) -> None:
        """Ignore."""

    def cut(self, cut: Cut) -> None:
        """Ignore."""

    def ranked(self, terms: int, postings: int) -> None:
        """Ignore."""

    def filtered(self, hits: int, misses: int, nbytes: int) -> None:
        """Ignore."""

    def committed(
        self, results: Sequence[WriteResult], seconds: float, index: IndexManifest
    ) -> None:
        """Ignore."""
