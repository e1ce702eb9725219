"""Finds the knee: the highest rate that is still answered whole and in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .k6 import Phase

ANSWERED = 0.999  # share of what was due
FINEST = 1.1  # two rates closer than this are one


@dataclass(frozen=True)
class Step:
    """One rate.

    Attributes:
        rate: requests a second that were due.
        seconds: for how long.
        phase: what k6 saw.
        scraped: what the server's metrics say of that time, see :mod:`.scrape`; empty without them.
    """

    rate: float
    seconds: float
    phase: Phase
    scraped: dict[str, float]

    @property
    def due(self) -> int:
        """Requests that should have been sent; a last one may fall behind the end."""
        return max(1, math.floor(self.rate * self.seconds) - 1)

    @property
    def answered(self) -> float:
        """Answers a second."""
        return self.phase.outcome.ok.count / self.seconds

    def good(self, p99: float) -> bool:
        """Whether all but a thousandth was answered, and 99 of 100 answers within ``p99``
        milliseconds.
        """
        ok = self.phase.outcome.ok
        return ok.count >= ANSWERED * self.due and ok.p99 <= p99


def search(
    measure: Callable[[float], Step],
    first: float,
    *,
    p99: float,
    growth: float,
    refine: int,
    most: int,
) -> list[Step]:
    """Measure rates until the knee lies between two of them.

    Rates grow from ``first`` until one is too high (or shrink until one is not), then the gap is
    halved.

    Args:
        measure: measures one rate.
        first: the first rate.
        p99: milliseconds that 99 of 100 answers must keep.
        growth: each rate is so many times the one before, > 1.
        refine: how often the gap is halved.
        most: steps at most.

    Returns:
        The steps, in order of rate.
    """
    steps = [measure(first)]
    rising = steps[0].good(p99)
    while len(steps) < most and steps[-1].good(p99) == rising:
        steps.append(measure(steps[-1].rate * growth if rising else steps[-1].rate / growth))
    for _ in range(refine):
        good = [step.rate for step in steps if step.good(p99)]
        bad = [step.rate for step in steps if not step.good(p99)]
        if len(steps) >= most or not good or not bad or min(bad) < max(good) * FINEST:
            break
        steps.append(measure(math.sqrt(max(good) * min(bad))))
    return sorted(steps, key=lambda step: step.rate)


def knee(steps: Sequence[Step], p99: float) -> Step | None:
    """The highest rate below which none was too high; None when the lowest already was."""
    found = None
    for step in sorted(steps, key=lambda step: step.rate):
        if not step.good(p99):
            break
        found = step
    return found
