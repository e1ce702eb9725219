"""How much memory this process has taken at most."""

from __future__ import annotations


def peak_bytes() -> int:
    """Most resident memory of this program; ``getrusage`` would count the process that started it
    as well (Linux).
    """
    with open("/proc/self/status", encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])
