"""The machine: its cores, its hardware in one line, and the most memory that a process took."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use, at least 1.

    The system's affinity, and the CPU quota of a container: with more threads than the quota has
    cores, all of them stand still for most of each period.

    Args:
        root: where /sys is.
    """
    allowed = len(os.sched_getaffinity(0))
    group = root / "sys/fs/cgroup"
    try:
        quota, period = (group / "cpu.max").read_text().split()  # cgroup 2
    except (OSError, ValueError):
        try:
            quota = (group / "cpu/cpu.cfs_quota_us").read_text()  # cgroup 1; -1: none
            period = (group / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return allowed
    if quota == "max" or int(quota) <= 0:
        return allowed
    return max(1, min(allowed, int(quota) // int(period)))


def hardware(device: Any = "cpu") -> str:
    """Return the machine in one line: processor or GPU, and versions of what computes on it.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:N`` or a ``torch.device``.
    """
    device = str(device)
    if not device.startswith("cuda"):
        return f"{_processor()}, {cores()} cores, {_versions()}"
    import torch

    properties = torch.cuda.get_device_properties(device)
    return (
        f"{properties.name}, {properties.multi_processor_count} multiprocessors, "
        f"{properties.total_memory / 2**30:.0f} GiB, driver {_driver()}, {_versions()}"
    )


def reset_peak_bytes(device: Any = "cpu") -> None:
    """Start counting the peak of memory anew; says on stderr where the system cannot."""
    if str(device).startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the peak of memory includes loading: this system cannot reset it", file=sys.stderr)


def peak_bytes(device: Any = "cpu") -> int:
    """Return the most memory taken: of a GPU by torch, else resident memory of this process.

    ``getrusage`` would count the process that started this one as well (Linux).
    """
    if str(device).startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    with open("/proc/self/status", encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _driver() -> str:
    path = Path("/proc/driver/nvidia/version")
    words = path.read_text().splitlines()[0].split() if path.exists() else []
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in ("torch", "triton"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} none")
    return ", ".join(found)
