"""What the service adds to its engine: the engine's own time, a bare echo server and the service,
at one rate, in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Literal

from ..v1 import retrieval_pb2 as pb
from . import echo, profiles
from .k6 import STAGES
from .knee import Step
from .profiles import Plan
from .queries import read_requests
from .target import Target

Mode = Literal["single", "ray"]
ROUNDS = 3
RATES: dict[Mode, float] = {"single": 200.0, "ray": 100.0}  # vector queries a second
HEAVY = 300.0  # a second, of which none may fail on Ray
# k6 opens connections slowly on a busy machine, and leaves out what is due meanwhile: so these are
# there before.
OPENED = 200
ADDED = 0.8  # milliseconds that a single process may add to its engine's p50
WHOLE = 3.5  # milliseconds of a query's p50 through Ray, ingress and shards apart

HEADINGS = ["what", "queries/s", "p50 ms", "p99 ms", "failed", "over the engine", "allowed", ""]


@dataclass(frozen=True)
class Line:
    """One line of the comparison.

    Attributes:
        name: what was measured.
        rate: queries a second.
        p50, p99: milliseconds, medians of the rounds.
        failed: queries that were not answered, all rounds together; of those due, those not sent
            included.
        added: p50 less the engine's; None for the engine itself.
        allowed: the bound that is judged, in words; "" where there is none.
        kept: whether it is kept; None where there is none.
        stages: of a service, where its time went: p50 in milliseconds, from its answers.
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
        """As cells of a table under ``HEADINGS``."""
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
    plan: Plan,
    engine: Callable[[Sequence[pb.SearchRequest], float, float], tuple[float, float]],
    *,
    rate: float | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Line]:
    """Measure all three, three times in turns.

    Args:
        mode: how the target runs.
        plan: the target, its requests (vector searches only) and the seconds of each measurement.
        engine: gives p50 and p99 in milliseconds of the engine asked alone, for requests, rate and
            seconds.
        rate: instead of that of the mode.
        tell: called with a line as it goes on.
    """
    rate = rate or RATES[mode]
    requests = read_requests(plan.load.requests)
    answer = plan.load.target.call("Search", requests[0])
    engine_times: list[tuple[float, float]] = []
    found: dict[str, list[Step]] = {"echo": [], mode: []}
    with echo.running(answer) as address:
        targets = {"echo": Target(address), mode: plan.load.target}
        for turn in range(ROUNDS):
            tell(
                f"round {turn + 1} of {ROUNDS}: engine, echo and {mode} at {rate:g}/s, "
                f"{plan.seconds} s each"
            )
            engine_times.append(engine(requests, rate, plan.seconds))
            for name, target in targets.items():
                found[name].append(_measure(plan, target, rate))
    p50, p99 = (median(one[i] for one in engine_times) for i in (0, 1))
    own = Line("engine alone", rate, p50, p99, 0)
    # The echo repeats the timings of the answer that it was given: they are none of its own.
    floor = replace(_line("bare grpc.aio echo", rate, found["echo"], own), stages={})
    service = _line(f"csplade, {mode}", rate, found[mode], own)
    if mode == "single":
        assert service.added is not None
        return [
            own,
            floor,
            replace(service, allowed=f"adds {ADDED} ms", kept=service.added <= ADDED),
        ]
    tell(f"{mode} at {HEAVY:g}/s, {plan.seconds} s")
    opened = max(plan.load.connections, OPENED)
    load = replace(
        plan.load, connections=opened, most_connections=max(plan.load.most_connections, opened)
    )
    heavy = _line(
        f"csplade, {mode}", HEAVY, [_measure(replace(plan, load=load), load.target, HEAVY)], own
    )
    return [
        own,
        floor,
        replace(service, allowed=f"p50 {WHOLE} ms", kept=service.p50 <= WHOLE),
        replace(heavy, allowed="none fails", kept=not heavy.failed),
    ]


def _measure(plan: Plan, target: Target, rate: float) -> Step:
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
