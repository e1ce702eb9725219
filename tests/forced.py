"""Launch Triton kernels for tensors on the CPU, in the interpreter, where ops would use torch."""

import pytest

from csplade.kernels.head import api as head
from csplade.kernels.runtime.launch import INTERPRETED
from csplade.kernels.score import api as score
from csplade.kernels.select import api as select
from csplade.kernels.topk import api as topk


def force_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every op choose its Triton kernels; skips where none can be interpreted."""
    if not INTERPRETED:
        pytest.skip("TRITON_INTERPRET is off in this process")
    for module in (head, topk, score, select):
        monkeypatch.setattr(module, "use_triton", lambda tensor: True)
