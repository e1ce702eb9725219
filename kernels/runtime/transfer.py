"""Copy arrays between host and device, and time the stages on a device without waiting for it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Clock:
    """Measure nanoseconds between marks: by CUDA events on a GPU, by the host's clock elsewhere.

    Marking never waits for the device.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._cuda = self._device.type == "cuda"
        self._marks: list[tuple[str, Any]] = [("", self._now())]

    def mark(self, stage: str) -> None:
        """End the stage that began at the previous mark; marks of one name add up."""
        self._marks.append((stage, self._now()))

    def read(self) -> dict[str, int]:
        """Return nanoseconds by stage. On a GPU, synchronize with the work first."""
        stages: dict[str, int] = {}
        for (_, start), (stage, end) in zip(self._marks, self._marks[1:], strict=False):
            spent = round(start.elapsed_time(end) * 1e6) if self._cuda else end - start
            stages[stage] = stages.get(stage, 0) + spent
        return stages

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter_ns()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def upload(array: NDArray[Any], device: torch.device | str) -> Tensor:
    """Copy a small host array to a device, through pinned memory: the host does not wait for it."""
    host = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if torch.device(device).type == "cuda":
        host = host.pin_memory()
    return host.to(device, non_blocking=True)


def refill(target: Tensor, array: NDArray[Any]) -> None:
    """Overwrite a device tensor with a small host array of its size; the host does not wait."""
    host = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    target.copy_(host.pin_memory() if target.is_cuda else host, non_blocking=True)


def fetch(*tensors: Tensor) -> list[NDArray[Any]]:
    """Copy any number of tensors of one device to the host in one transfer.

    Returns:
        Arrays of the same shapes and dtypes, aligned.
    """
    return wait(pack(*tensors).download())[0]


@dataclass(frozen=True)
class Packed:
    """Tensors of one device, joined so that one transfer copies them.

    Attributes:
        data: uint8, all of them one after another.
        parts: place in ``data`` in bytes, dtype and shape of each tensor, in the order given.
    """

    data: Tensor
    parts: tuple[tuple[int, np.dtype[Any], tuple[int, ...]], ...]

    def download(self) -> Download:
        """Enqueue the copy to the host; the tensors may be overwritten by what comes after it."""
        if not self.data.is_cuda:
            return Download(self.data.clone(), self.parts, None)
        host = torch.empty(self.data.shape, dtype=torch.uint8, pin_memory=True)
        host.copy_(self.data, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(self.data.device))
        return Download(host, self.parts, copied)


@dataclass(frozen=True)
class Download:
    """A copy to the host that was enqueued; see :func:`wait`."""

    host: Tensor
    parts: tuple[tuple[int, np.dtype[Any], tuple[int, ...]], ...]
    copied: torch.cuda.Event | None

    def arrays(self) -> list[NDArray[Any]]:
        """Return the tensors as arrays, once the copy is complete."""
        data = self.host.numpy().copy()
        return [
            data[first : first + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for first, dtype, shape in self.parts
        ]


def pack(*tensors: Tensor) -> Packed:
    """Join tensors of one device, without waiting for it."""
    # Widest items first, so that every array begins at a multiple of its item's size.
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
    data = torch.cat([tensors[i].contiguous().view(-1).view(torch.uint8) for i in order])
    parts: list[Any] = [None] * len(tensors)
    first = 0
    for i in order:
        dtype = torch.empty(0, dtype=tensors[i].dtype).numpy().dtype
        parts[i] = (first, dtype, tuple(tensors[i].shape))
        first += tensors[i].nbytes
    return Packed(data, tuple(parts))


def wait(*downloads: Download) -> list[list[NDArray[Any]]]:
    """Wait for downloads that were enqueued on one stream, in this order; return their arrays.

    The host waits once.
    """
    if (last := downloads[-1].copied) is not None:
        last.synchronize()
    return [one.arrays() for one in downloads]
