"""One run on a GPU machine: check the kernels against their references, time them, time searching,
and write it all down.

``python bench/gpu_check.py --out DIR`` from a checkout; nothing needs to be installed but torch,
triton and numpy (with pytest, hypothesis, safetensors and numba the tests run, too). Every stage is
a process of its own with its own time limit, so that a kernel that hangs or spoils the CUDA context
costs its stage and not the run. What a stage measured is written as soon as it ends.

Triton: the one that is installed, or (``--triton ARCHIVE``) one that was carried along, packed by
``make gpu-triton``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TESTS = (
    "tests/kernels",
    "tests/index/read/test_device.py",
    "tests/engine/test_device_plan.py",
)
# The headline collection, and one of an encoder with a large vocabulary.
PASSAGES = {"documents": 8_800_000, "mean_terms": 119, "query_terms": 43, "k": 1000}
LARGE_VOCABULARY = {
    "documents": 1_000_000, "mean_terms": 300, "query_terms": 43, "k": 1000, "vocabulary": 128_256,
}  # fmt: skip
TINY = {
    "documents": 300,
    "mean_terms": 20,
    "query_terms": 6,
    "k": 10,
    "rounds": 2,
    "batches": (1, 4),
}


@dataclass(frozen=True)
class Table:
    """What a stage found: a table to read, lines below it, and all of its numbers; ``fault`` says
    what is wrong with them.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    numbers: Any
    fault: str = ""


@dataclass(frozen=True)
class Stage:
    """A part of the run: ``seconds`` it may take, and what makes its table (None for the tests)."""

    seconds: int
    work: Callable[[bool], Table] | None


def machine_code(rehearse: bool) -> Table:
    """Every kernel compiled for this GPU, ahead of its launch."""
    import torch

    # Absolute here and below: this file runs as a script of a checkout, where nothing is installed.
    from csplade.kernels.runtime import aot

    major, minor = (9, 0) if rehearse else torch.cuda.get_device_capability()
    chosen = [case for case in aot.cases() if not rehearse or case.name.startswith("select/expand")]
    found = list(aot.compile_all(chosen, [10 * major + minor]))
    failed = sum(not one.ok for one in found)
    return Table(
        aot.HEADINGS,
        [one.row() for one in found],
        [],
        [one.to_json() for one in found],
        f"{failed} of {len(found)} kernels are not as they should be" if failed else "",
    )


def kernels(rehearse: bool) -> Table:
    """Each kernel beside its floor and its alternatives."""
    from csplade.bench import kernels as bench

    return _table(bench.HEADINGS, bench.run("cpu" if rehearse else "cuda", progress=_say))


def passages(rehearse: bool) -> Table:
    """Searching 8.8 million documents."""
    return _search(PASSAGES, rehearse)


def large_vocabulary(rehearse: bool) -> Table:
    """Searching a million documents of 300 terms out of 128,256."""
    return _search(LARGE_VOCABULARY, rehearse)


def _search(sizes: dict[str, Any], rehearse: bool) -> Table:
    from csplade.bench import device as bench

    sizes = sizes | TINY if rehearse else sizes
    return _table(bench.HEADINGS, bench.run(**sizes, device="cpu" if rehearse else "cuda"))


def _table(headings: Sequence[str], report: Any) -> Table:
    return Table(headings, report.rows(), report.notes(), report.to_json())


STAGES = {
    "tests": Stage(300, None),
    "machine_code": Stage(150, machine_code),
    "passages": Stage(120, passages),
    "large_vocabulary": Stage(90, large_vocabulary),
    "kernels": Stage(200, kernels),
}


def main() -> int:
    """Run the stages; returns 0 if all of them came through."""
    parser = argparse.ArgumentParser(description="Check and time csplade on this machine's GPU.")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT", "runs/gpu")), help="results go here"
    )
    parser.add_argument(
        "--triton", type=Path, help="archive of `make gpu-triton`, instead of the installed Triton"
    )
    parser.add_argument(
        "--stages", default=",".join(STAGES), help=f"which, in order; default {','.join(STAGES)}"
    )
    parser.add_argument("--seconds", type=int, default=570, help="for all stages together")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, at tiny sizes")
    options = parser.parse_args()
    names = options.stages.split(",")
    if unknown := [name for name in names if name not in STAGES]:
        parser.error(f"unknown stages {', '.join(unknown)}; known are {', '.join(STAGES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as scratch:
        environment = _environment(Path(scratch), options.triton)
        results: dict[str, Any] = {
            "command": shlex.join(["python", *sys.argv]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rehearsal": options.rehearse,
            **_machine(environment),
            "stages": {},
        }
        with (options.out / "log.txt").open("w") as log:
            for name in names:
                _say(f"== {name}")
                left = deadline - time.monotonic()
                results["stages"][name] = _run(
                    name, options.rehearse, left, environment, Path(scratch), log
                )
                _write(options.out, results)
    print((options.out / "results.md").read_text())
    return 0 if all(stage["passed"] for stage in results["stages"].values()) else 1


def _environment(scratch: Path, triton: Path | None) -> dict[str, str]:
    """For the stages: the checkout as the package ``csplade``, which the repository's root is, and
    perhaps another Triton.
    """
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
    paths = [str(package.parent)]
    # Safe path: the root itself must not be searched, its folders have names that other packages
    # have, too.
    environment = os.environ | {
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment["TRITON_CACHE_DIR"] = str(scratch / "triton-cache")
    if triton is not None:
        with tarfile.open(triton) as archive:
            archive.extractall(scratch / "triton", filter="data")
        paths.insert(0, str(scratch / "triton"))
        environment["TRITON_BACKENDS_IN_TREE"] = (
            "1"  # not those that the installed Triton has registered
        )
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def _machine(environment: dict[str, str]) -> dict[str, str]:
    """Card, driver and versions, as the stages will see them."""
    card = "none"
    try:
        query = [
            "nvidia-smi",
            "--query-gpu=name,memory.total,driver_version",
            "--format=csv,noheader",
        ]
        card = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        _say(f"nvidia-smi: {error}")
    program = "import sys, torch, triton; print(sys.version.split()[0], torch.__version__, triton.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"gpu_check: torch and triton must import here:\n{done.stderr}")
    python, torch, triton = done.stdout.split()
    return {"card": card, "python": python, "torch": torch, "triton": triton}


def _run(
    name: str, rehearse: bool, left: float, environment: dict[str, str], scratch: Path, log: Any
) -> dict[str, Any]:
    """One stage in a process of its own; its output goes to the log."""
    stage, result = STAGES[name], scratch / f"{name}.json"
    if stage.work is None:
        command = [
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-m",
            "gpu",
            "-rs",
            "--durations=10",
            *TESTS,
        ]
    else:
        call = f"stage({name!r}, {rehearse}, {str(result)!r})"
        command = ["-c", f"from csplade.bench.gpu_check import stage; {call}"]
    log.write(f"\n== {name}\n")
    log.flush()
    started, seconds = time.monotonic(), min(stage.seconds, left)
    try:
        if seconds <= 0:
            raise subprocess.TimeoutExpired(name, 0)
        code = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
            timeout=seconds, check=False,
        ).returncode  # fmt: skip
        ending = "" if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        ending = f"stopped after {max(seconds, 0):.0f} s"
    found = json.loads(result.read_text()) if result.is_file() else {}
    ending = ending or found.get("fault", "")
    return {
        "passed": not ending,
        "ending": ending,
        "seconds": round(time.monotonic() - started, 1),
        **found,
    }


def stage(name: str, rehearse: bool, result: str) -> None:
    """In a stage's own process: do its work and leave what it found."""
    work = STAGES[name].work
    assert work is not None
    Path(result).write_text(json.dumps(vars(work(rehearse))))


def _write(out: Path, results: dict[str, Any]) -> None:
    """results.json and results.md, both whole after every stage."""
    (out / "results.json").write_text(json.dumps(results, indent=1))
    lines = [
        f"`{results['command']}`" + ", a rehearsal: no numbers of a GPU" * results["rehearsal"],
        "",
    ]
    lines.append(
        f"{results['card']} (card, memory, driver); {results['date']}; Python {results['python']}, "
        f"torch {results['torch']}, triton {results['triton']}"
    )
    log = (out / "log.txt").read_text()
    for name, found in results["stages"].items():
        lines += ["", f"## {name}: {found['ending'] or 'passed'}, {found['seconds']} s", ""]
        if "rows" in found:
            lines.append("| " + " | ".join(found["headings"]) + " |")
            lines.append("|---" * len(found["headings"]) + "|")
            lines += ["| " + " | ".join(row) + " |" for row in found["rows"]]
            lines += ["", *(f"- {one}" for one in found["notes"])]
        if found["ending"] or name == "tests":
            said = log.partition(f"\n== {name}\n")[2].partition("\n== ")[0].strip().splitlines()
            lines += ["", "```", *said[-15:], "```"]
    (out / "results.md").write_text("\n".join(lines) + "\n")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
