"""The four load tests.

smoke: does it answer; step: where is the knee; soak: does it last; overload: does it reject well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from . import bounds, k6
from .bounds import Profile
from .k6 import Load, Outcome, Phase
from .knee import Step, knee, search
from .scrape import Reading, Scraper

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Overload:
    """The result of an overload.

    Attributes:
        rate: requests per second that the server can answer.
        factor: how many times that rate was sent.
        seconds: duration.
        before, during, after: what k6 saw.
        by_second: how the requests of each second after it ended.
        recovery: the first of those seconds from which on all is well; None if there is none.
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
    """The result of a load test.

    Attributes:
        profile: which test.
        p99: milliseconds within which 99 of 100 answers had to come.
        steps: by rate; a single one except for the step test, none for the overload test.
        overload: of the overload test.
        knee: requests per second; of the step test.
        readings: of the server's gauges.
        memory_growth: resident memory at the end / in the second quarter; None if not read.
        failures: what missed its bound, a line each.
    """

    profile: Profile
    p99: float
    steps: tuple[Step, ...] = ()
    overload: Overload | None = None
    knee: float | None = None
    readings: tuple[Reading, ...] = ()
    memory_growth: float | None = None
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadPlan:
    """How to load.

    Attributes:
        load: the target and the requests.
        rate: requests per second of smoke and soak; the first one of step; what the server can
            answer, for overload.
        seconds: duration of each rate, of the soak, of the overload.
        p99: milliseconds within which 99 of 100 answers must come.
        metrics: URLs of metrics to read meanwhile.
        around: seconds before and after an overload.
    """

    load: Load
    rate: float
    seconds: int
    p99: float = 250.0
    metrics: Sequence[str] = ()
    around: int = bounds.OVERLOAD_AROUND_SECONDS


def run(profile: Profile, plan: LoadPlan, tell: Tell = lambda _: None) -> Result:
    """Run a load test.

    Args:
        profile: which one.
        plan: how to load.
        tell: called with a line as the test goes on.

    Raises:
        UnavailableError: k6 is missing or fails, or a metrics URL does not answer.
    """
    if profile == "step":
        return _step(plan, tell)
    if profile == "overload":
        return _overload(plan, tell)
    ramp = min(bounds.SOAK_RAMP_SECONDS, plan.seconds // 4) if profile == "soak" else 0
    tell(f"{plan.rate:g}/s for {plan.seconds} s")
    step, readings = measure(plan, plan.rate, ramp)
    outcome = step.phase.outcome
    failures = []
    if outcome.ok.count < outcome.sent or outcome.sent < bounds.SMALLEST_ANSWERED_SHARE * step.due:
        failures.append(f"{outcome.ok.count} of {step.due} due requests were answered, not all")
    if outcome.ok.p99 > plan.p99:
        failures.append(f"p99 is {outcome.ok.p99:.1f} ms, must be at most {plan.p99:g} ms")
    return _finished(Result(profile, plan.p99, (step,), failures=tuple(failures)), readings)


def measure(plan: LoadPlan, rate: float, ramp: int = 0) -> tuple[Step, list[Reading]]:
    """Measure one rate, and read the server's gauges meanwhile."""
    with Scraper(plan.metrics, max(1.0, plan.seconds / 120)) as scraper:
        metrics, _ = k6.run(
            "steady.js",
            plan.load,
            bounds.WARM_UP_SECONDS + 1 + plan.seconds,
            RATE=rate,
            SECONDS=plan.seconds,
            WARM=bounds.WARM_UP_SECONDS,
            RAMP=ramp,
            P99=plan.p99,
        )
    step = Step(rate, plan.seconds, k6.phase(metrics, "steady"), scraper.counted, ramp)
    return step, scraper.readings


def _step(plan: LoadPlan, tell: Tell) -> Result:
    readings: list[Reading] = []

    def one(rate: float) -> Step:
        step, read = measure(plan, rate)
        # A pause of the machine is not a knee: a rate is too high only if it is so twice.
        if not step.kept(plan.p99):
            again, more = measure(plan, rate)
            step, read = (again if again.kept(plan.p99) else step), read + more
        readings.extend(read)
        ok = step.phase.outcome.ok
        verdict = "kept" if step.kept(plan.p99) else "too high"
        tell(
            f"{rate:.4g}/s: {step.answered:.4g}/s answered, p50 {ok.p50:.2f} ms, p99 {ok.p99:.2f} "
            f"ms: {verdict}"
        )
        return step

    steps = search(
        one,
        plan.rate,
        p99=plan.p99,
        growth=bounds.STEP_GROWTH,
        halvings=bounds.STEP_HALVINGS,
        most=bounds.LARGEST_STEPS,
    )
    found = knee(steps, plan.p99)
    failures = (
        f"no rate down to {steps[0].rate:.3g}/s was answered completely within {plan.p99:g} ms",
    )
    return Result(
        "step",
        plan.p99,
        tuple(steps),
        knee=None if found is None else found.rate,
        readings=tuple(readings),
        failures=() if found else failures,
    )


def _overload(plan: LoadPlan, tell: Tell) -> Result:
    tell(
        f"{bounds.OVERLOAD_FACTOR} x {plan.rate:g}/s for {plan.seconds} s, {plan.around} s of half "
        "the rate before and after"
    )
    with Scraper(plan.metrics) as scraper:
        metrics, _ = k6.run(
            "overload.js",
            plan.load,
            bounds.WARM_UP_SECONDS + 1 + 2 * plan.around + plan.seconds,
            RATE=plan.rate,
            SECONDS=plan.seconds,
            AROUND=plan.around,
            FACTOR=bounds.OVERLOAD_FACTOR,
            WARM=bounds.WARM_UP_SECONDS,
        )
    before, during, after = (k6.phase(metrics, name) for name in ("before", "overload", "after"))
    by_second = tuple(
        k6.outcome(metrics, f"scenario:after,second:{second}") for second in range(plan.around)
    )
    recovery = recovered(by_second, plan.rate / 2, plan.p99)
    failures = []
    if before.outcome.ok.count < before.outcome.sent:
        failures.append(
            f"{before.outcome.ok.count} of {before.outcome.sent} requests before the overload were "
            "answered, not all"
        )
    if not during.outcome.rejected.count:
        why = (
            f"{during.not_sent} requests could not be sent"
            if during.not_sent
            else "the rate is not above what the server can answer"
        )
        failures.append(f"no request was rejected: {why}")
    if recovery is None or recovery > bounds.LARGEST_RECOVERY_SECONDS:
        failures.append(f"the server did not recover within {bounds.LARGEST_RECOVERY_SECONDS} s")
    if during.outcome.other or during.outcome.unavailable:
        failures.append(
            f"{during.outcome.unavailable} requests were UNAVAILABLE and {during.outcome.other} "
            "failed otherwise"
        )
    overload = Overload(
        plan.rate,
        bounds.OVERLOAD_FACTOR,
        plan.seconds,
        before,
        during,
        after,
        by_second,
        recovery,
    )
    return _finished(
        Result("overload", plan.p99, overload=overload, failures=tuple(failures)), scraper.readings
    )


def recovered(by_second: Sequence[Outcome], rate: float, p95: float) -> int | None:
    """Return the first second from which on all is well; None if there is none.

    Args:
        by_second: how the requests of each second ended.
        rate: requests due per second; most must be sent, and all of those answered.
        p95: milliseconds within which 95 of 100 answers must come.
    """
    found = None
    for second in reversed(range(len(by_second))):
        one = by_second[second]
        if (
            one.sent < bounds.SMALLEST_SENT_SHARE * rate
            or one.ok.count < one.sent
            or one.ok.p95 > p95
        ):
            break
        found = second
    return found


def _finished(result: Result, readings: Sequence[Reading]) -> Result:
    """Add the readings, and growth of memory to the failures."""
    name = "process_resident_memory_bytes"
    memory = [one.values[name] for one in readings if one.values.get(name)]
    result = replace(result, readings=tuple(readings))
    # A smoke test ends before the process has reached its size.
    if len(memory) < 4 or result.profile == "smoke":
        return result
    growth = memory[-1] / memory[len(memory) // 4]
    grown = (
        (f"resident memory grew {growth:.2f} times",)
        if growth > bounds.LARGEST_MEMORY_GROWTH
        else ()
    )
    return replace(result, memory_growth=growth, failures=(*result.failures, *grown))
