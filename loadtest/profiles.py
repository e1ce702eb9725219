"""The four tests: smoke (does it work), step (where is the knee), soak (does it last), overload
(does it refuse well).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from . import k6
from .k6 import Load, Outcome, Phase
from .knee import Step, knee, search
from .scrape import Reading, Scraper

Name = Literal["smoke", "step", "soak", "overload"]
Tell = Callable[[str], None]

WARM = 2  # seconds
STEPS = 16  # of one search, at most
SENT = 0.8  # share of a second's requests; a few fall into its neighbours
FACTOR = 4
GROWTH = 1.25  # of memory, from the second quarter of a test to its end: more is told as growth


@dataclass(frozen=True)
class Overload:
    """What came of an overload.

    Attributes:
        rate: requests a second that the server can do.
        factor: times of it that were sent.
        seconds: how long.
        before, during, after: what k6 saw.
        by_second: how the requests of each second after it ended.
        recovery: the first of those seconds from which on all is well; None if it did not come.
    """

    rate: float
    factor: float
    seconds: float
    before: Phase
    during: Phase
    after: Phase
    by_second: tuple[Outcome, ...]
    recovery: int | None


@dataclass(frozen=True)
class Result:
    """What a test found.

    Attributes:
        profile: which test.
        p99: milliseconds that 99 of 100 answers had to keep.
        steps: by rate; one, but for the step test; none of the overload test.
        overload: of the overload test.
        knee: requests a second; of the step test.
        readings: of the server's gauges.
        memory_growth: resident memory at the end, in times of that of the second quarter; None if
            not read.
        failures: what was not as it should be, a line each.
    """

    profile: Name
    p99: float
    steps: tuple[Step, ...] = ()
    overload: Overload | None = None
    knee: float | None = None
    readings: tuple[Reading, ...] = ()
    memory_growth: float | None = None
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How to load.

    Attributes:
        load: whom and with what.
        rate: requests a second: of smoke and soak; where step begins; what the server can do, for
            overload.
        seconds: of each rate, of the soak, of the overload.
        p99: milliseconds that 99 of 100 answers must keep.
        metrics: endpoints to read meanwhile.
        around: seconds before and after an overload.
        growth, refine: of the step test, see :func:`.knee.search`.
    """

    load: Load
    rate: float
    seconds: int
    p99: float = 250.0
    metrics: Sequence[str] = ()
    around: int = 10
    growth: float = 2.0
    refine: int = 3


def run(profile: Name, plan: Plan, tell: Tell = lambda _: None) -> Result:
    """Run a test.

    Args:
        profile: which one.
        plan: how.
        tell: called with a line as the test goes on.

    Raises:
        UnavailableError: k6 is missing or fails, or an endpoint of metrics does not answer.
    """
    if profile == "step":
        return _step(plan, tell)
    if profile == "overload":
        return _overload(plan, tell)
    ramp = min(30, plan.seconds // 4) if profile == "soak" else 0
    tell(f"{plan.rate:g}/s for {plan.seconds} s")
    step, readings = measure(plan, plan.rate, ramp)
    due = step.due - round(plan.rate * ramp / 2)
    outcome = step.phase.outcome
    failures = []
    if outcome.ok.count < outcome.sent or outcome.sent < 0.999 * due:
        failures.append(f"{outcome.ok.count} of {due} requests due were answered, all should be")
    if outcome.ok.p99 > plan.p99:
        failures.append(f"p99 is {outcome.ok.p99:.1f} ms, must be at most {plan.p99:g}")
    return _finished(Result(profile, plan.p99, (step,), failures=tuple(failures)), readings)


def measure(plan: Plan, rate: float, ramp: int = 0) -> tuple[Step, list[Reading]]:
    """One rate, and the server's gauges meanwhile."""
    with Scraper(plan.metrics, max(1.0, plan.seconds / 120)) as scraper:
        metrics, _ = k6.run(
            "steady.js",
            plan.load,
            WARM + 1 + plan.seconds,
            RATE=rate,
            SECONDS=plan.seconds,
            WARM=WARM,
            RAMP=ramp,
            P99=plan.p99,
        )
    return Step(rate, plan.seconds, k6.phase(metrics, "steady"), scraper.counted), scraper.readings


def _step(plan: Plan, tell: Tell) -> Result:
    readings: list[Reading] = []

    def one(rate: float) -> Step:
        step, read = measure(plan, rate)
        if not step.good(
            plan.p99
        ):  # a hiccup of the machine is no knee: a rate is too high when it is so twice
            again, more = measure(plan, rate)
            step, read = (again if again.good(plan.p99) else step), read + more
        readings.extend(read)
        ok = step.phase.outcome.ok
        verdict = "kept" if step.good(plan.p99) else "too high"
        tell(
            f"{rate:.4g}/s: {step.answered:.4g}/s answered, p50 {ok.p50:.2f} ms, p99 {ok.p99:.2f} "
            f"ms: {verdict}"
        )
        return step

    steps = search(one, plan.rate, p99=plan.p99, growth=plan.growth, refine=plan.refine, most=STEPS)
    found = knee(steps, plan.p99)
    failures = (
        []
        if found
        else [f"no rate down to {steps[0].rate:.3g}/s was answered whole within {plan.p99:g} ms"]
    )
    return Result(
        "step",
        plan.p99,
        tuple(steps),
        knee=None if found is None else found.rate,
        readings=tuple(readings),
        failures=tuple(failures),
    )


def _overload(plan: Plan, tell: Tell) -> Result:
    tell(
        f"{FACTOR} x {plan.rate:g}/s for {plan.seconds} s, {plan.around} s of half the rate "
        "before and after"
    )
    with Scraper(plan.metrics) as scraper:
        metrics, _ = k6.run(
            "overload.js",
            plan.load,
            WARM + 1 + 2 * plan.around + plan.seconds,
            RATE=plan.rate,
            SECONDS=plan.seconds,
            AROUND=plan.around,
            FACTOR=FACTOR,
        )
    before, during, after = (k6.phase(metrics, name) for name in ("before", "overload", "after"))
    by_second = tuple(
        k6.outcome(metrics, f"scenario:after,second:{second}") for second in range(plan.around)
    )
    recovery = recovered(by_second, plan.rate / 2, plan.p99)
    failures = []
    if before.outcome.ok.count < before.outcome.sent:
        failures.append(
            f"{before.outcome.ok.count} of {before.outcome.sent} were answered before the overload"
        )
    if not during.outcome.rejected.count:
        why = (
            f"{during.not_sent} could not be sent"
            if during.not_sent
            else "the rate was not above what the server can do"
        )
        failures.append(f"nothing was refused: {why}")
    if recovery is None or recovery > 5:
        failures.append("not well again within 5 s of the overload's end")
    if during.outcome.other or during.outcome.unavailable:
        failures.append(
            f"{during.outcome.unavailable} requests were UNAVAILABLE and {during.outcome.other} "
            "failed otherwise"
        )
    overload = Overload(plan.rate, FACTOR, plan.seconds, before, during, after, by_second, recovery)
    return _finished(
        Result("overload", plan.p99, overload=overload, failures=tuple(failures)), scraper.readings
    )


def recovered(by_second: Sequence[Outcome], rate: float, p95: float) -> int | None:
    """The first second from which on all is well; None if there is none.

    Args:
        by_second: how the requests of each second ended.
        rate: requests that are due in each; nearly all must have been sent, and all of those
            answered.
        p95: milliseconds that 95 of 100 answers must keep.
    """
    found = None
    for second in reversed(range(len(by_second))):
        one = by_second[second]
        if one.sent < SENT * rate or one.ok.count < one.sent or one.ok.p95 > p95:
            break
        found = second
    return found


def _finished(result: Result, readings: Sequence[Reading]) -> Result:
    """With the readings, and growth of memory among the failures."""
    name = "process_resident_memory_bytes"
    memory = [one.values[name] for one in readings if one.values.get(name)]
    result = replace(result, readings=tuple(readings))
    # A smoke test is over before a process has grown to its size.
    if len(memory) < 4 or result.profile == "smoke":
        return result
    growth = memory[-1] / memory[len(memory) // 4]
    grown = (f"resident memory grew {growth:.2f} times",) if growth > GROWTH else ()
    return replace(result, memory_growth=growth, failures=(*result.failures, *grown))
