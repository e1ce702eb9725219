import pytest
import torch

from csplade.kernels.launch import INTERPRETED, triton


@pytest.fixture(scope="session", params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def kernel_device(request: pytest.FixtureRequest) -> str:
    """Where a test puts the tensors it gives to Triton kernels; a process either interprets or compiles, kernels/launch.py."""
    if triton is None:
        pytest.skip("triton is not installed")
    if request.param == "interpreter":
        if not INTERPRETED:
            pytest.skip("TRITON_INTERPRET is off in this process")
        return "cpu"
    if INTERPRETED or not torch.cuda.is_available():
        pytest.skip("no CUDA device" if not torch.cuda.is_available() else "TRITON_INTERPRET is on")
    return "cuda"
