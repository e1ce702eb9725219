"""Sample a service under load with py-spy, and write a flame graph."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import profiles
from .bounds import WARM_UP_SECONDS
from .profiles import LoadPlan


def record(process: int, plan: LoadPlan, rate: float, path: Path) -> str:
    """Load a service once more while py-spy samples it and its child processes.

    Args:
        process: id of the service's process.
        plan: how to load it.
        rate: requests per second.
        path: SVG file to write.

    Returns:
        A line that names the file, or says why there is none.
    """
    program = shutil.which(
        "py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if program is None:
        return "no flame graph: py-spy is not installed; pip install 'csplade[loadtest]'"
    command = [
        program, "record", "--pid", str(process), "--subprocesses", "--nonblocking", "--threads",
        "--duration", str(plan.seconds + WARM_UP_SECONDS), "--output", str(path),
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as recorder:
        profiles.measure(plan, rate)
        output = recorder.communicate()[1].strip().splitlines()
    if path.is_file():
        return f"flame graph at {rate:g}/s: {path}"
    return f"no flame graph: {output[-1] if output else 'py-spy printed nothing'}"
