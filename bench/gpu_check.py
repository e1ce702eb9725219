"""Check and measure the GPU path on a rented machine, in four calls of less than ten minutes.

``python bench/gpu_check.py --call 1 --out DIR`` from a checkout, then calls 2 to 4. Nothing needs
to be installed but torch, Triton, NumPy and pytest; hypothesis, safetensors and numba serve the
tests, transformers the network, pytest-xdist, compute-sanitizer and ncu are used where they exist.

1. the environment, the tests marked ``gpu``, compute-sanitizer;
2. machine code, head tiles, topk, score and select, profiles;
3. query encoding with random weights, eager and as CUDA graphs;
4. the headline with its baselines.

Every stage is a process of its own with its own time limit: a kernel that hangs or breaks the CUDA
context costs its stage and not the call. A row is written and flushed when it is measured, so a
stage that is stopped keeps its rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
# Tests marked gpu that import nothing a GPU machine lacks.
TESTS = ("tests/kernels", "tests/index/read/test_device.py")


@dataclass(frozen=True)
class Stage:
    """Describe a part of a call.

    Attributes:
        call: 1 to 4.
        seconds: time limit.
        predicted: what was predicted before the first measurement, for its heading.
    """

    call: int
    seconds: int
    predicted: str = ""


STAGES = {
    "environment": Stage(1, 60),
    "tests": Stage(1, 240),
    "sanitizer": Stage(1, 180),
    "machine_code": Stage(2, 150),
    "heads": Stage(2, 90, "128x256: 1.15 to 1.35 times as fast as 128x128 at 8,192 tokens"),
    "topks": Stage(2, 40, "8,600 positive: 25 to 35 times as fast as merging sorted blocks"),
    "scores": Stage(2, 120, "35 to 60 us for one query, 50 to 75 us a query at batch 64"),
    "profile": Stage(2, 120),
    "networks": Stage(3, 480, "1B, one query: 3 ms eager (34 launches a layer), 0.8 ms as a graph"),
    "passages": Stage(4, 200, "batch 1: 0.12 to 0.25 ms, bound by the host; 0.10 ms at batch 64"),
    "large_vocabulary": Stage(4, 120),
    "baselines": Stage(4, 180),
}


def main() -> int:
    """Run the stages of a call; return 0 if all of them passed."""
    parser = argparse.ArgumentParser(description="Check and measure csplade on this GPU.")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT", "runs/gpu")), help="results go here"
    )
    parser.add_argument("--call", type=int, choices=(1, 2, 3, 4), help="which stages; default all")
    parser.add_argument("--stages", help=f"instead: names, in order, of {', '.join(STAGES)}")
    parser.add_argument("--seconds", type=int, default=570, help="for all stages together")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, at tiny sizes")
    options = parser.parse_args()
    chosen = [name for name, stage in STAGES.items() if options.call in (None, stage.call)]
    names = options.stages.split(",") if options.stages else chosen
    if unknown := [name for name in names if name not in STAGES]:
        parser.error(f"unknown stages {', '.join(unknown)}; allowed {', '.join(STAGES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    out: Path = options.out.resolve()
    deadline = time.monotonic() + options.seconds
    page = Page(out, options.rehearse)
    with tempfile.TemporaryDirectory() as scratch:
        environment = environment_of(Path(scratch))
        for name in names:
            print(f"== {name}", file=sys.stderr, flush=True)
            left = deadline - time.monotonic()
            page.add(name, run(name, options.rehearse, left, environment, out))
    print((out / "results.md").read_text())
    return 0 if page.passed else 1


def environment_of(scratch: Path) -> dict[str, str]:
    """Return the environment of the stages: the checkout is the package ``csplade``."""
    package = scratch / "packages" / "csplade"
    package.mkdir(parents=True)
    for entry in ROOT.iterdir():
        if (
            entry.suffix == ".py"
            or (entry / "__init__.py").is_file()
            or entry.name in ("py.typed", "examples")
        ):
            (package / entry.name).symlink_to(entry)
    (package / "v1").symlink_to(ROOT / "proto" / "csplade" / "v1")
    # Safe path: folders of the root have names that other packages have too.
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(package.parent), os.environ.get("PYTHONPATH", "")])
        ),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TRITON_CACHE_DIR": str(scratch / "triton-cache"),
    }


def pytest_command(*, collect: bool) -> list[str]:
    """Return the pytest command line of the tests on a GPU."""
    workers = ["-n", "4"] if importlib.util.find_spec("xdist") and not collect else []
    options = ["--collect-only", "-q"] if collect else ["-rs", "--durations=10"]
    return ["-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", *workers, *options, *TESTS]


def run(
    name: str, rehearse: bool, left: float, environment: dict[str, str], out: Path
) -> dict[str, Any]:
    """Run one stage in a process of its own; its rows go to a file, its output to a log."""
    rows = out / f"{name}.jsonl"
    rows.unlink(missing_ok=True)
    if name == "tests":
        command = pytest_command(collect=rehearse)
    else:
        call = f"stage({name!r}, {rehearse}, {str(rows)!r})"
        command = ["-c", f"from csplade.bench.gpu_check import stage; {call}"]
    started, seconds = time.monotonic(), min(STAGES[name].seconds, left)
    with (out / f"{name}.log").open("w") as log:
        ending = _finish([sys.executable, *command], environment, seconds, log)
    found = [json.loads(line) for line in _whole_lines(rows)]
    failed = sum(row.get("passed") is False for row in found)
    ending = ending or (f"{failed} of {len(found)} failed" if failed else "")
    spent = round(time.monotonic() - started, 1)
    return {"ending": ending, "seconds": spent, "rows": found}


def _finish(command: list[str], environment: dict[str, str], seconds: float, log: IO[str]) -> str:
    """Return how a process ended: "" when well."""
    if seconds <= 0:
        return "not started: the time of the call is used up"
    try:
        code = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
            timeout=seconds, check=False,
        ).returncode  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    return f"exit code {code}" if code else ""


def _whole_lines(path: Path) -> list[str]:
    """Return the complete lines of a file that a process may have been writing when it ended."""
    text = path.read_text() if path.is_file() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def stage(name: str, rehearse: bool, rows: str) -> None:
    """Run a stage in this process and write each row when it is measured."""
    # Absolute: this file also runs as a script of a checkout, where nothing is installed.
    from csplade.bench import gpu_stages

    with Path(rows).open("w") as file:
        for row in getattr(gpu_stages, name)(rehearse):
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


class Page:
    """Keep results.json and results.md, both complete after every stage.

    Attributes:
        passed: whether every stage passed so far.
    """

    def __init__(self, out: Path, rehearse: bool) -> None:
        self._out, self.passed = out, True
        self._results: dict[str, Any] = {
            "command": shlex.join(["python", *sys.argv]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rehearsal": rehearse,
            "stages": {},
        }

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Add what a stage found."""
        self.passed &= not found["ending"]
        self._results["stages"][name] = found
        (self._out / "results.json").write_text(json.dumps(self._results, indent=1))
        rehearsal = ", a rehearsal: no numbers of a GPU" * self._results["rehearsal"]
        lines = [f"`{self._results['command']}`{rehearsal}; {self._results['date']}"]
        for one, result in self._results["stages"].items():
            lines += ["", *self._section(one, result)]
        (self._out / "results.md").write_text("\n".join(lines) + "\n")

    def _section(self, name: str, found: dict[str, Any]) -> list[str]:
        lines = [f"## {name}: {found['ending'] or 'passed'}, {found['seconds']} s", ""]
        if STAGES[name].predicted:
            lines += [f"Predicted: {STAGES[name].predicted}.", ""]
        if found["rows"]:
            headings = list(dict.fromkeys(key for row in found["rows"] for key in row))
            lines += ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
            for row in found["rows"]:
                lines.append("| " + " | ".join(_text(row.get(key)) for key in headings) + " |")
        if found["ending"] or name == "tests":
            log = (self._out / f"{name}.log").read_text().strip().splitlines()
            lines += ["", "```", *log[-15:], "```"]
        return lines


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")


if __name__ == "__main__":
    sys.exit(main())
