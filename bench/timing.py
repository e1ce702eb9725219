"""Timing on a device, and its ceilings: what a copy and a matrix product reach, measured in the
same run as what they judge.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from ..core import machine
from ..kernels.runtime.graph import recorder
from ..kernels.runtime.launch import on_device

# Written between timed runs: several times the L2 cache of any GPU there is, so that every run
# starts from memory.
FLUSH_BYTES = 512 * 2**20
WARM_UPS = 3


@dataclass(frozen=True)
class Ceilings:
    """What the device reached here.

    Attributes:
        copy: bytes read and written per second by a copy within its memory.
        product: bf16 floating-point operations per second of a square matrix product of random
            numbers.
    """

    copy: float
    product: float

    @classmethod
    def measure(cls, device: torch.device) -> Ceilings:
        """Measure both; a second on a GPU."""
        cuda = device.type == "cuda"
        source = torch.randint(
            0, 255, (2**32 if cuda else 2**24,), dtype=torch.uint8, device=device
        )
        target = torch.empty_like(source)
        copy = milliseconds(lambda: target.copy_(source), device, flush=False)
        size = 8192 if cuda else 256
        left, right = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
        product = milliseconds(lambda: left @ right, device, flush=False)
        return cls(2 * source.nbytes / copy * 1e3, 2 * size**3 / product * 1e3)

    def copy_ms(self, count: float) -> float:
        """Milliseconds to move that many bytes, those read plus those written."""
        return count / self.copy * 1e3

    def product_ms(self, operations: float) -> float:
        """Milliseconds for that many floating-point operations in bf16."""
        return operations / self.product * 1e3


def milliseconds(
    work: Callable[[], Any], device: torch.device, *, repeats: int = 20, flush: bool = True
) -> float:
    """Median time of ``work``: between CUDA events on a GPU, with the cache emptied before each
    run; else by the host's clock.
    """
    for _ in range(WARM_UPS):
        work()
    if device.type != "cuda":
        spent = []
        for _ in range(repeats):
            started = time.perf_counter()
            work()
            spent.append((time.perf_counter() - started) * 1e3)
        return median(spent)
    rubbish = torch.empty(FLUSH_BYTES if flush else 1, dtype=torch.uint8, device=device)
    return event_milliseconds(work, device, repeats=repeats, before=lambda: rubbish.fill_(1))


def event_milliseconds(
    work: Callable[[], Any],
    device: torch.device,
    *,
    repeats: int,
    before: Callable[[], Any] = lambda: None,
) -> float:
    """Return the median time of ``work`` between CUDA events; ``before`` runs outside of them."""
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    with on_device(device):
        for start, end in events:
            before()
            start.record()
            work()
            end.record()
        torch.cuda.synchronize()
    return float(median(start.elapsed_time(end) for start, end in events))


def wall_milliseconds(work: Callable[[], Any], *, repeats: int = 20) -> float:
    """Median time of ``work`` by the host's clock; it waits for the device itself."""
    for _ in range(WARM_UPS):
        work()
    spent = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        spent.append((time.perf_counter() - started) * 1e3)
    return median(spent)


def graph_of(work: Callable[[], Any], device: torch.device) -> Callable[[], None] | None:
    """Return a call that replays the launches of ``work`` as a CUDA graph; None if it cannot."""
    made = recorder(device)
    try:
        return None if made is None else made.record(work).replay
    except RuntimeError:  # something in it waits for the device
        return None


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int | None:
    """Device memory that ``work`` takes at its height beyond what was taken before; None without
    CUDA.
    """
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    machine.reset_peak_bytes(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return machine.peak_bytes(device) - before
