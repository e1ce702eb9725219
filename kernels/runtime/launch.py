"""Share one Triton among the kernels: what is installed, in which mode, on which devices.

Triton is optional: a CPU build of torch does not install it. Then ``triton`` and ``tl`` are None
and :func:`jit` returns its function unchanged. Kernel modules begin with ``from __future__ import
annotations`` (so that ``tl.constexpr`` stays a string) and import ``triton``, ``tl`` and ``jit``
from here. They import on every machine and launch where :func:`use_triton` allows it.

A process runs kernels in one of two modes. Triton fixes the mode when it is first imported, because
it decorates its own library (``tl.sum``, ``tl.sort``) at that moment:

- compiled, the default: kernels run on CUDA tensors and can be compiled ahead of time for other
  devices;
- interpreted, with ``TRITON_INTERPRET=1`` in the environment: kernels run slowly on CPU tensors,
  for tests.

``tests/conftest.py`` selects the interpreted mode where there is no CUDA device, before anything
imports triton. Tests call the Triton function of an op by name with tensors on ``kernel_device`` (a
fixture of ``tests/kernels``), so the same test checks the interpreter on one machine and the GPU on
another. Compiling ahead of time needs the compiled mode: tests do it in a subprocess with
:func:`compiled_environment`. Gluon kernels have no interpreter.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

try:
    import triton
    from triton import language as tl
except ImportError:
    triton = tl = None

__all__ = [
    "INTERPRETED",
    "MIN_CAPABILITY",
    "YES",
    "Support",
    "capability",
    "compiled_environment",
    "jit",
    "on_device",
    "tl",
    "triton",
    "triton_support",
    "use_triton",
]

log = logging.getLogger(__name__)

# The oldest compute capability for which the kernels are compiled and checked: A100.
MIN_CAPABILITY = 80

Function = TypeVar("Function", bound=Callable[..., Any])

INTERPRETED = triton is not None and bool(triton.knobs.runtime.interpret)


@dataclass(frozen=True)
class Support:
    """Say whether an implementation can take an input; true when it can.

    Attributes:
        reason: why it cannot, in words; "" when it can.
    """

    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason


YES = Support()


def jit(function: Function | None = None, *, varying: tuple[str, ...] = ()) -> Any:
    """Return ``triton.jit(function)``, or the function unchanged where Triton is not installed.

    Args:
        function: the kernel; None returns a decorator.
        varying: arguments whose value changes from launch to launch: counts, k, pointers into the
            middle of tensors. Triton does not compile the kernel again for each kind of value.
    """
    if function is None:
        return functools.partial(jit, varying=varying)
    return function if triton is None else triton.jit(function, do_not_specialize=varying)


def on_device(place: Tensor | torch.device) -> AbstractContextManager[Any]:
    """Make a device, or that of a tensor, the current one: launches and events go there."""
    device = place if isinstance(place, torch.device) else place.device
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def triton_support(device: torch.device) -> Support:
    """Say whether Triton kernels can run on tensors of this device in this process."""
    if triton is None:
        return Support("triton is not installed")
    if device.type not in ("cpu", "cuda"):
        return Support(f"kernels run on CUDA devices, not on {device.type}")
    if INTERPRETED:
        return YES if device.type == "cpu" else Support("this process interprets kernels")
    if device.type == "cpu":
        return Support("kernels run on the CPU only with TRITON_INTERPRET=1")
    return _gpu_support(device.index if device.index is not None else torch.cuda.current_device())


@functools.cache
def _gpu_support(index: int) -> Support:
    name = torch.cuda.get_device_name(index)
    if torch.version.hip:
        return Support(f"{name} is an AMD GPU; kernels are built for NVIDIA GPUs")
    found = capability(torch.device("cuda", index))
    if found < MIN_CAPABILITY:
        return Support(f"{name} is sm_{found}; kernels need sm_{MIN_CAPABILITY} or newer")
    return YES


def use_triton(tensor: Tensor) -> bool:
    """Return whether the public function of an op launches Triton kernels for this tensor.

    It does on a CUDA device that runs them. On another GPU the op runs in plain torch, and the log
    says why, once per device.
    """
    if not tensor.is_cuda:
        return False
    support = triton_support(tensor.device)
    if not support:
        _warn(str(tensor.device), support.reason)
    return bool(support)


@functools.cache
def _warn(device: str, reason: str) -> None:
    log.warning("%s: plain torch replaces the Triton kernels: %s", device, reason)


def capability(device: torch.device) -> int:
    """Return the compute capability of a device as one number, 90 for 9.0; 0 for the CPU."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def compiled_environment() -> dict[str, str]:
    """Return the environment of a subprocess in which kernels are compiled, not interpreted."""
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
