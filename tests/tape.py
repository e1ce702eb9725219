"""A recorder for tests: it records torch's operations and Triton's launches on the CPU.

As a CUDA graph does, a replay runs the recorded operations on the recorded tensors, whatever Python
would decide now, and recording fails where the host reads what the device computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from csplade.kernels.runtime.launch import triton

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")
READS = ("tolist", "numpy", "item", "__bool__", "__int__", "__index__")


class Tape(TorchDispatchMode):
    """Collects what runs while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Callable[[], None]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.__name__.split(".")[0]
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in WAITS or any(one is not None and one.dtype == torch.bool for one in indices):
            raise RuntimeError(f"{func}: waits for the device while work is recorded")
        outputs = func(*args, **kwargs)
        self.steps.append(lambda: refresh(outputs, func(*args, **kwargs)))
        return outputs


def refresh(recorded: Any, computed: Any) -> None:
    """Put what an operation computed where its recording put it."""
    for old, new in zip(tree_leaves(recorded), tree_leaves(computed), strict=True):
        if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
            old.copy_(new)


class TapeRecording:
    """Steps and what they returned; counts its replays."""

    def __init__(self, steps: list[Callable[[], None]], outputs: Any) -> None:
        self.steps, self.outputs, self.replays = steps, outputs, 0

    def replay(self) -> None:
        self.replays += 1
        with torch.inference_mode():
            for step in self.steps:
                step()


class TapeRecorder:
    """Implements ``kernels.runtime.graph.Recorder``; keeps the recordings that it made."""

    def __init__(self) -> None:
        self.made: list[TapeRecording] = []

    @property
    def replays(self) -> int:
        return sum(one.replays for one in self.made)

    def record(self, work: Callable[[], Any]) -> TapeRecording:
        work()
        tape = Tape()
        with _launches_on(tape), _no_reads(), tape:
            outputs = work()
        self.made.append(TapeRecording(tape.steps, outputs))
        return self.made[-1]


@contextmanager
def _launches_on(tape: Tape) -> Iterator[None]:
    """Put launches of interpreted kernels on the tape, as one step each."""
    if triton is None:
        yield
        return
    from triton.runtime.interpreter import InterpretedFunction

    run = InterpretedFunction.run

    def recorded(self, *args, grid, warmup, **kwargs):
        def launch() -> None:
            with _disable_current_modes(), _reads():
                run(self, *args, grid=grid, warmup=warmup, **kwargs)

        launch()
        tape.steps.append(launch)

    InterpretedFunction.run = recorded
    try:
        yield
    finally:
        InterpretedFunction.run = run


_ORIGINAL = {name: getattr(torch.Tensor, name) for name in READS}


def _set_reads(make: Callable[[str, Any], Any]) -> None:
    for name, read in _ORIGINAL.items():
        setattr(torch.Tensor, name, make(name, read))


@contextmanager
def _no_reads() -> Iterator[None]:
    """Fail where the host reads a tensor that holds anything."""

    def guarded(name: str, read: Any) -> Any:
        def method(self, *args, **kwargs):
            if self.numel():
                raise RuntimeError(f"{name}: waits for the device while work is recorded")
            return read(self, *args, **kwargs)

        return method

    _set_reads(guarded)
    try:
        yield
    finally:
        _set_reads(lambda name, read: read)


@contextmanager
def _reads() -> Iterator[None]:
    """Let the interpreter read, which stands for the device."""
    held = {name: getattr(torch.Tensor, name) for name in READS}
    _set_reads(lambda name, read: read)
    try:
        yield
    finally:
        for name, read in held.items():
            setattr(torch.Tensor, name, read)
