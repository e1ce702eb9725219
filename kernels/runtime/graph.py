"""Record device work once and replay it with one launch.

A launch costs the host some five microseconds, and a query on its way through a network makes
hundreds of them. A recording reads and writes the very tensors that it was made with: callers copy
inputs into them, replay, and copy outputs out of them. The work must not wait for the device, and
its sizes must not depend on the inputs' values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

from .launch import on_device

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Runs before the recording, in which kernels are compiled and libraries allocate what they keep.
WARM_UPS = 3


class Recording(Protocol[T_co]):
    """Work that was recorded."""

    @property
    def outputs(self) -> T_co:
        """What the work returned. A replay of any recording of the same recorder overwrites it."""

    def replay(self) -> None:
        """Enqueue the work again."""


class Recorder(Protocol):
    """Records work on one device."""

    def record(self, work: Callable[[], T]) -> Recording[T]:
        """Run the work, then record it.

        Raises:
            RuntimeError: the work waits for the device.
        """
        ...


class _CudaRecording:
    def __init__(self, graph: torch.cuda.CUDAGraph, outputs: Any) -> None:
        self.outputs = outputs
        self._graph = graph

    def replay(self) -> None:
        """Launch the graph."""
        self._graph.replay()


class CudaRecorder:
    """Records CUDA graphs.

    They share one pool of memory, which is as large as the largest of them needs: so they are
    replayed on one stream, and outputs are copied on it before the next replay.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        with on_device(device):
            # One for all: torch keeps the memory of every stream apart.
            self._stream = torch.cuda.Stream()

    def record(self, work: Callable[[], T]) -> Recording[T]:
        """Record the work as a CUDA graph; see :class:`Recorder`."""
        with on_device(self._device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    work()
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=self._stream,
                capture_error_mode="thread_local",  # other threads may use the device meanwhile
            ):
                outputs = work()
        self._pool = graph.pool()
        return _CudaRecording(graph, outputs)


def recorder(device: torch.device) -> Recorder | None:
    """Return a recorder for a device; None where work cannot be recorded."""
    return CudaRecorder(device) if device.type == "cuda" else None
