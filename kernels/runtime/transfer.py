"""Copy arrays between host and device, and time the stages on a device without waiting for it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .launch import on_device

# Bytes of pinned host memory through which an array of any size is copied to a GPU.
STAGING_BYTES = 64 * 2**20


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


def upload_into(target: Tensor, array: NDArray[Any]) -> None:
    """Fill a device tensor from a host array of the same size, in pieces through pinned memory."""
    source = torch.from_numpy(array.view(np.uint8))
    into = target.view(torch.uint8)
    if not target.is_cuda:
        into.copy_(source)
        return
    size = min(STAGING_BYTES, max(len(source), 1))
    with on_device(target):
        pinned = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        copied = [torch.cuda.Event() for _ in range(2)]
        for turn, first in enumerate(range(0, len(source), size)):
            piece = source[first : first + size]
            # The previous copy from this buffer is complete; an unrecorded event returns at once.
            copied[turn % 2].synchronize()
            staged = pinned[turn % 2][: len(piece)]
            staged.copy_(piece)
            into[first : first + len(piece)].copy_(staged, non_blocking=True)
            copied[turn % 2].record()
        for event in copied:
            event.synchronize()  # the pinned buffers are freed on return


def fetch(*tensors: Tensor) -> list[NDArray[Any]]:
    """Copy any number of tensors of one device to the host in one transfer.

    Returns:
        Arrays of the same shapes and dtypes, aligned.
    """
    # Widest items first, so that every array begins at a multiple of its item's size.
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
    packed = (
        torch.cat([tensors[i].contiguous().view(-1).view(torch.uint8) for i in order]).cpu().numpy()
    )
    arrays: list[Any] = [None] * len(tensors)
    first = 0
    for i in order:
        dtype = torch.empty(0, dtype=tensors[i].dtype).numpy().dtype
        last = first + tensors[i].numel() * dtype.itemsize
        arrays[i] = packed[first:last].view(dtype).reshape(tensors[i].shape)
        first = last
    return arrays
