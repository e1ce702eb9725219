"""Measure what the service adds to its engine.

The engine alone, a bare echo server and the service are measured at one rate, in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from ..v1 import retrieval_pb2 as pb
from . import bounds, echo, profiles
from .bounds import Mode
from .k6 import STAGES
from .knee import Step
from .profiles import LoadPlan
from .queries import read_requests
from .target import Target

HEADINGS = ["what", "queries/s", "p50 ms", "p99 ms", "failed", "over the engine", "allowed", ""]


@dataclass(frozen=True)
class Line:
    """One line of the comparison.

    Attributes:
        name: what was measured.
        rate: queries per second.
        p50, p99: milliseconds, medians of the rounds.
        failed: due queries that were not answered, over all rounds.
        added: p50 minus the engine's; None for the engine itself.
        allowed: the bound in words; "" if there is none.
        kept: whether the bound is kept; None if there is none.
        stages: p50 of each stage of a service in milliseconds, from its answers.
    """

    name: str
    rate: float
    p50: float
    p99: float
    failed: int
    added: float | None = None
    allowed: str = ""
    kept: bool | None = None
    stages: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> list[str]:
        """Return the line as cells under ``HEADINGS``."""
        return [
            self.name,
            f"{self.rate:g}",
            f"{self.p50:.3f}",
            f"{self.p99:.3f}",
            str(self.failed),
            "" if self.added is None else f"{self.added:+.3f}",
            self.allowed,
            "" if self.kept is None else "kept" if self.kept else "MISSED",
        ]


def compare(
    mode: Mode,
    plan: LoadPlan,
    engine: Callable[[Sequence[pb.SearchRequest], float, float], tuple[float, float]],
    *,
    rate: float | None = None,
    rounds: int = bounds.COMPARE_ROUNDS,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Line]:
    """Measure engine, echo and service in turns.

    Args:
        mode: how the target runs.
        plan: the target, its requests (vector searches only) and the seconds of each measurement.
        engine: returns p50 and p99 of the engine alone in milliseconds, given requests, rate and
            seconds.
        rate: queries per second, instead of the mode's own.
        rounds: turns of each.
        tell: called with a line as it goes on.
    """
    rate = rate or bounds.COMPARE_RATES[mode]
    requests = read_requests(plan.load.requests)
    answer = plan.load.target.call("Search", requests[0])
    engine_times: list[tuple[float, float]] = []
    found: dict[str, list[Step]] = {"echo": [], mode: []}
    with echo.running(answer) as address:
        targets = {"echo": Target(address), mode: plan.load.target}
        for turn in range(rounds):
            tell(
                f"round {turn + 1} of {rounds}: engine, echo and {mode} at {rate:g}/s, "
                f"{plan.seconds} s each"
            )
            engine_times.append(engine(requests, rate, plan.seconds))
            for name, target in targets.items():
                found[name].append(_measure(plan, target, rate))
    p50, p99 = (median(one[i] for one in engine_times) for i in (0, 1))
    own = Line("engine alone", rate, p50, p99, 0)
    # The echo repeats the answer that it was given, stages included: they are not its own.
    floor = replace(_line("bare grpc.aio echo", rate, found["echo"], own), stages={})
    service = _line(f"csplade, {mode}", rate, found[mode], own)
    if mode == "single":
        kept = service.p50 - own.p50 <= bounds.LARGEST_ADDED_MS
        return [
            own,
            floor,
            replace(service, allowed=f"adds {bounds.LARGEST_ADDED_MS} ms", kept=kept),
        ]
    tell(f"{mode} at {bounds.HEAVY_RATE:g}/s, {plan.seconds} s")
    connections = max(plan.load.connections, bounds.HEAVY_CONNECTIONS)
    heavy_load = replace(
        plan.load,
        connections=connections,
        most_connections=max(plan.load.most_connections, connections),
    )
    step = _measure(replace(plan, load=heavy_load), plan.load.target, bounds.HEAVY_RATE)
    heavy = _line(f"csplade, {mode}", bounds.HEAVY_RATE, [step], own)
    return [
        own,
        floor,
        replace(
            service,
            allowed=f"p50 {bounds.LARGEST_RAY_MS} ms",
            kept=service.p50 <= bounds.LARGEST_RAY_MS,
        ),
        replace(heavy, allowed="none fails", kept=not heavy.failed),
    ]


def _measure(plan: LoadPlan, target: Target, rate: float) -> Step:
    step, _ = profiles.measure(
        replace(plan, load=replace(plan.load, target=target), metrics=()), rate
    )
    return step


def _line(name: str, rate: float, rounds: Sequence[Step], engine: Line) -> Line:
    answers = [step.phase.outcome.ok for step in rounds]
    p50, p99 = median(one.p50 for one in answers), median(one.p99 for one in answers)
    failed = sum(max(0, step.due - step.phase.outcome.ok.count) for step in rounds)
    servers = [step.phase.server for step in rounds]
    stages = {
        stage: median(one[stage].p50 for one in servers if stage in one)
        for stage in STAGES
        if any(stage in one for one in servers)
    }
    return Line(name, rate, p50, p99, failed, p50 - engine.p50, stages=stages)
