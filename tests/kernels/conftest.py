import mmap
from collections.abc import Callable

import pytest
import torch

from csplade.kernels.runtime.launch import INTERPRETED, triton

NORESERVE = 0x4000  # Linux: address space without a promise of memory


@pytest.fixture(
    scope="session", params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)]
)
def kernel_device(request: pytest.FixtureRequest) -> str:
    """Where a test puts the tensors it gives to Triton kernels; a process either interprets or
    compiles, kernels/runtime/launch.py.
    """
    if triton is None:
        pytest.skip("triton is not installed")
    if request.param == "interpreter":
        if not INTERPRETED:
            pytest.skip("TRITON_INTERPRET is off in this process")
        return "cpu"
    if INTERPRETED or not torch.cuda.is_available():
        pytest.skip("no CUDA device" if not torch.cuda.is_available() else "TRITON_INTERPRET is on")
    return "cuda"


@pytest.fixture
def far_rows(kernel_device: str) -> Callable[..., torch.Tensor]:
    """Rows that lie 2^31 elements apart and more: an address worked out in 32 bits misses them."""

    def make(dtype: torch.dtype, *, rows: int, columns: int) -> torch.Tensor:
        stride = 2**31 // max(rows - 1, 1) + 64
        elements = (rows - 1) * stride + columns
        if kernel_device == "cuda":
            memory = torch.empty(elements, dtype=dtype, device="cuda")
        else:
            # Pages that are never touched take no memory.
            reserved = mmap.mmap(
                -1,
                elements * dtype.itemsize,
                flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE,
            )
            memory = torch.frombuffer(reserved, dtype=dtype)
        return memory.as_strided((rows, columns), (stride, 1))

    return make
