"""Find the knee: the highest rate that is still answered completely and in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .bounds import SMALLEST_ANSWERED_SHARE, SMALLEST_STEP_GROWTH
from .k6 import Phase


@dataclass(frozen=True)
class Step:
    """One rate.

    Attributes:
        rate: requests per second.
        seconds: duration.
        phase: what k6 saw.
        scraped: growth of the server's metrics, see :mod:`.scrape`; empty without metrics.
        ramp: seconds in which the rate rose from 0, part of ``seconds``.
    """

    rate: float
    seconds: float
    phase: Phase
    scraped: dict[str, float]
    ramp: float = 0.0

    @property
    def due(self) -> int:
        """Requests that should have been sent; the last one may fall beyond the end."""
        return max(1, math.floor(self.rate * (self.seconds - self.ramp / 2)) - 1)

    @property
    def answered(self) -> float:
        """Answers per second."""
        return self.phase.outcome.ok.count / self.seconds

    def kept(self, p99: float) -> bool:
        """Say whether 999 of 1,000 due requests were answered, 99 of 100 within ``p99`` ms."""
        ok = self.phase.outcome.ok
        return ok.count >= SMALLEST_ANSWERED_SHARE * self.due and ok.p99 <= p99


def search(
    measure: Callable[[float], Step],
    first: float,
    *,
    p99: float,
    growth: float,
    halvings: int,
    most: int,
) -> list[Step]:
    """Measure rates until the knee lies between two close ones.

    Rates grow from ``first`` until one is too high (or shrink until one is kept), then the gap is
    halved.

    Args:
        measure: measures one rate.
        first: the first rate, in requests per second.
        p99: milliseconds within which 99 of 100 answers must come.
        growth: factor between rates, above 1.
        halvings: number of times to halve the gap.
        most: number of steps at most.

    Returns:
        The steps, by rate.
    """
    steps = [measure(first)]
    rising = steps[0].kept(p99)
    while len(steps) < most and steps[-1].kept(p99) == rising:
        steps.append(measure(steps[-1].rate * growth if rising else steps[-1].rate / growth))
    for _ in range(halvings):
        kept = [step.rate for step in steps if step.kept(p99)]
        missed = [step.rate for step in steps if not step.kept(p99)]
        if (
            len(steps) >= most
            or not kept
            or not missed
            or min(missed) < max(kept) * SMALLEST_STEP_GROWTH
        ):
            break
        steps.append(measure(math.sqrt(max(kept) * min(missed))))
    return sorted(steps, key=lambda step: step.rate)


def knee(steps: Sequence[Step], p99: float) -> Step | None:
    """Return the step of the highest rate up to which all were kept; None if there is none."""
    found = None
    for step in sorted(steps, key=lambda step: step.rate):
        if not step.kept(p99):
            break
        found = step
    return found
