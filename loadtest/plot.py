"""Plot the result of a load test."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import Any

from ..core.errors import UnavailableError
from .k6 import STAGES
from .profiles import Overload, Result

FIGURE_INCHES = (11.0, 4.2)


def check() -> None:
    """Raise UnavailableError if matplotlib is missing; call this before a test."""
    if find_spec("matplotlib") is None:
        raise UnavailableError(
            "matplotlib is not installed; install it: pip install 'csplade[loadtest]'"
        )


def png(result: Result) -> bytes:
    """Plot latency, answers and server stages by rate, or the seconds after an overload."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    if result.overload is not None:
        _overload(figure, result.overload)
    else:
        _latency(figure.add_subplot(1, 3, 1), result)
        _answers(figure.add_subplot(1, 3, 2), result)
        _stages(figure.add_subplot(1, 3, 3), result)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=110, metadata={"Software": None})
    return target.getvalue()


def _latency(axes: Any, result: Result) -> None:
    rates = [step.rate for step in result.steps]
    for name in ("p50", "p95", "p99"):
        axes.plot(
            rates,
            [getattr(step.phase.outcome.ok, name) for step in result.steps],
            marker="o",
            label=name,
        )
    axes.axhline(result.p99, color="grey", linestyle=":", label=f"bound of p99: {result.p99:g} ms")
    _by_rate(axes, result, "latency, ms")
    axes.set_yscale("log")
    axes.legend(fontsize="small")


def _answers(axes: Any, result: Result) -> None:
    rates = [step.rate for step in result.steps]
    per_second = {
        "answered": [step.answered for step in result.steps],
        "rejected": [step.phase.outcome.rejected.count / step.seconds for step in result.steps],
        "failed": [
            (one.late + one.unavailable + one.other + step.phase.unreached) / step.seconds
            for step in result.steps
            for one in [step.phase.outcome]
        ],
        "not sent": [step.phase.not_sent / step.seconds for step in result.steps],
    }
    for name, values in per_second.items():
        axes.plot(rates, values, marker="o", label=name)
    axes.plot(rates, rates, color="grey", linestyle=":", label="offered")
    _by_rate(axes, result, "requests/s")
    axes.legend(fontsize="small")


def _stages(axes: Any, result: Result) -> None:
    places = range(len(result.steps))
    floor = [0.0] * len(result.steps)
    for stage in STAGES[:-1]:
        values = [
            step.phase.server[stage].p50 if stage in step.phase.server else 0.0
            for step in result.steps
        ]
        if any(values):
            axes.bar(places, values, bottom=floor, label=stage)
            floor = [low + value for low, value in zip(floor, values, strict=True)]
    axes.plot(
        places,
        [step.phase.outcome.ok.p50 for step in result.steps],
        "k_",
        label="seen by the client",
    )
    axes.set_xticks(places, [f"{step.rate:.3g}" for step in result.steps], rotation=45)
    axes.set_xlabel("offered/s")
    axes.set_ylabel("server's stages, p50, ms")
    axes.legend(fontsize="small")


def _by_rate(axes: Any, result: Result, label: str) -> None:
    if result.knee is not None:
        axes.axvline(result.knee, color="green", linestyle="--", label=f"knee, {result.knee:.4g}/s")
    if len(result.steps) > 1:
        axes.set_xscale("log")
        axes.set_xticks(
            [step.rate for step in result.steps],
            [f"{step.rate:.3g}" for step in result.steps],
            rotation=45,
        )
        axes.set_xticks([], minor=True)
    axes.set_xlabel("offered/s")
    axes.set_ylabel(label)


def _overload(figure: Any, overload: Overload) -> None:
    phases = {"before": overload.before, "overload": overload.during, "after": overload.after}
    axes = figure.add_subplot(1, 2, 1)
    floor = [0] * len(phases)
    for name in ("ok", "rejected", "late", "unavailable", "other"):
        found = [getattr(phase.outcome, name) for phase in phases.values()]
        values = [one if isinstance(one, int) else one.count for one in found]
        if any(values):
            axes.bar(list(phases), values, bottom=floor, label=name)
            floor = [low + value for low, value in zip(floor, values, strict=True)]
    axes.set_ylabel("requests")
    axes.legend(fontsize="small")
    axes = figure.add_subplot(1, 2, 2)
    seconds = range(len(overload.by_second))
    axes.plot(
        seconds, [one.ok.p95 for one in overload.by_second], marker="o", label="p95 of answers"
    )
    axes.axhline(
        overload.before.outcome.ok.p95, color="grey", linestyle=":", label="before the overload"
    )
    if overload.recovery is not None:
        axes.axvline(overload.recovery, color="green", linestyle="--", label="recovered")
    axes.set_xlabel("seconds after the overload")
    axes.set_ylabel("ms")
    axes.legend(fontsize="small")
