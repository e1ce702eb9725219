"""launch: what the Triton kernels of this package share.

Triton is optional: a CPU build of torch brings none, and then ``triton`` and ``tl`` are None here
and :func:`jit` leaves its function as it is. Kernel modules begin with ``from __future__ import
annotations`` (so that ``tl.constexpr`` stays a string) and take ``triton``, ``tl`` and ``jit`` from
here. They import everywhere and launch where :func:`use_triton` says so.

A process is in one of two modes, settled when triton is first imported, because triton decorates
its own library (``tl.sum``, ``tl.sort``) at that moment too:

- compiled, the usual one: kernels run on CUDA tensors and can be compiled ahead of time for other
  devices;
- interpreted, with ``TRITON_INTERPRET=1`` in the environment: kernels run on CPU tensors, slowly,
  for tests.

``tests/conftest.py`` chooses interpreted where there is no CUDA device, before anything imports
triton. Tests call an op's Triton function by name with tensors on ``kernel_device`` (a fixture of
``tests/kernels``), so the same test checks the interpreter on one machine and the card on another.
What compiles ahead of time needs the compiled mode, so a test that does runs it in a process of its
own with :func:`compiled_environment`. Gluon kernels have no interpreter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

try:
    import triton
    from triton import language as tl
except ImportError:
    triton = tl = None

__all__ = [
    "INTERPRETED",
    "MAX_CAPABILITY",
    "AotCase",
    "capability",
    "compiled_environment",
    "jit",
    "tl",
    "triton",
    "use_triton",
]

MAX_CAPABILITY = 999

Function = TypeVar("Function", bound=Callable[..., Any])

INTERPRETED = triton is not None and bool(triton.knobs.runtime.interpret)


def jit(function: Function) -> Any:
    """``triton.jit`` where there is triton; else the function as it is, which nobody launches."""
    return function if triton is None else triton.jit(function)


def use_triton(tensor: Tensor) -> bool:
    """Whether an op's public function launches Triton kernels for this tensor: it is on CUDA and
    kernels are compiled.
    """
    return tensor.is_cuda and triton is not None and not INTERPRETED


def capability(tensor: Tensor) -> int:
    """Compute capability of the tensor's device as one number, 90 for 9.0; 0 for the CPU, where
    kernels are interpreted.
    """
    if not tensor.is_cuda:
        return 0
    import torch

    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def compiled_environment() -> dict[str, str]:
    """The environment for a process of its own in which kernels are compiled and not interpreted."""
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


@dataclass(frozen=True)
class AotCase:
    """One kernel with everything that settles its machine code, so that it compiles without a GPU.

    Every op module lists its kernels as ``AOT: list[AotCase]``, in the configurations in which they
    are launched.

    Attributes:
        name: ``op/kernel/what sets this case apart``, unique.
        kernel: the function under ``@jit`` or ``@gluon.jit``.
        signature: argument to Triton type, all arguments in order: ``*bf16``, ``i32``, ``fp32``,
            ``constexpr``, ...
        constexprs: value of each argument whose type is ``constexpr``.
        num_warps: warps per program.
        num_stages: depth of software pipelining.
        aligned: pointers and integers known to be divisible by 16, as a launch would find out by
            itself.
        expects: beginnings of SASS instructions that must appear, by capability; key 0 stands for
            all the others.
        min_capability: the oldest device this case is launched on, 80 for sm_80.
        max_capability: the newest one.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    aligned: tuple[str, ...] = ()
    expects: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    min_capability: int = 80
    max_capability: int = MAX_CAPABILITY

    def expected(self, capability: int) -> tuple[str, ...]:
        """Beginnings of instructions that must appear in the machine code for this capability."""
        return self.expects.get(capability, self.expects.get(0, ()))

    @property
    def attrs(self) -> dict[tuple[int, ...], list[list[Any]]]:
        """``aligned`` as Triton's compiler takes it."""
        names = list(self.signature)
        return {(names.index(name),): [["tt.divisibility", 16]] for name in self.aligned}

    def compile(self, capability: int) -> Any:
        """Triton's compiled kernel for a capability: ``asm["cubin"]``, ``metadata.shared`` and so
        on; in compiled mode only.
        """
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        source: Any = ASTSource
        if self.kernel.is_gluon():
            from triton.experimental.gluon._runtime import GluonASTSource

            source = GluonASTSource
        return triton.compile(
            source(self.kernel, dict(self.signature), dict(self.constexprs), self.attrs),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": self.num_warps, "num_stages": self.num_stages},
        )
