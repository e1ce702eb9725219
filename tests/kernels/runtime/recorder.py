"""Record kernel launches without a GPU: Triton specializes them as on sm_90, and none is run."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

SHARED_BYTES = 4 << 14


class _Driver:
    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Recorder:
    """Count launches and compilations by kernel name; use it in a process of its own."""

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.launched: list[str] = []
        driver.set_active(_Driver())
        JITFunction._do_compile = self._compile

    @property
    def _compile(self) -> Callable[..., object]:
        recorder = self

        def compile(kernel, key, signature, device, constexprs, options, attrs, warmup):
            recorder.compiled.append(kernel.fn.__name__)
            made = SimpleNamespace(
                launch_metadata=lambda *_: None,
                run=lambda *_: recorder.launched.append(kernel.fn.__name__),
                function=None,
                packed_metadata=None,
                metadata=SimpleNamespace(shared=SHARED_BYTES),
            )
            kernel.device_caches[device][0][key] = made
            return made

        return compile

    def take(self) -> list[str]:
        """Return the kernels compiled since the last call."""
        taken, self.compiled = self.compiled, []
        return taken


def force_triton() -> None:
    """Let every op choose its Triton kernels for tensors on the CPU."""
    from csplade.kernels.head import api as head
    from csplade.kernels.runtime import launch
    from csplade.kernels.score import api as score
    from csplade.kernels.score import gluon, triton
    from csplade.kernels.score.types import MAX_BLOCK_DOCUMENTS
    from csplade.kernels.select import api as select
    from csplade.kernels.topk import api as topk

    for module in (head, topk, score, select):
        module.use_triton = lambda tensor: True
    triton.supports = lambda postings: launch.YES
    gluon.supports = lambda postings: launch.Support(
        "" if postings.block_size == MAX_BLOCK_DOCUMENTS else "small blocks"
    )
    select.triton_support = lambda device: launch.YES
    torch.manual_seed(0)
