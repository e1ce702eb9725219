import subprocess
import sys

import pytest
import torch

from csplade.core.device import find_device, find_devices
from csplade.core.errors import InputError

GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0


@pytest.mark.parametrize("name", ["tpu9", "meta", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:-1", ""])
def test_unknown_names_are_rejected(name):
    with pytest.raises(InputError, match=f"^index_device: '{name}' is unknown; allowed auto, cpu"):
        find_device(name, "index_device")


def test_a_gpu_that_is_not_there_is_rejected():
    with pytest.raises(InputError, match=f"^device: 'cuda:99' is not available, .* {GPUS} CUDA"):
        find_device("cuda:99")


@pytest.mark.skipif(GPUS > 0, reason="this machine has a GPU")
def test_without_a_gpu():
    assert find_device("auto") == find_device("cpu") == "cpu"
    with pytest.raises(InputError, match=r"^device: 'cuda' is not available"):
        find_device("cuda")


def test_a_gpu_gets_its_number(monkeypatch):
    monkeypatch.setattr("csplade.core.device._has_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    names = ["auto", "cuda", "cuda:0", "cuda:1", "cpu"]
    assert [find_device(name) for name in names] == ["cuda:1", "cuda:1", "cuda:0", "cuda:1", "cpu"]
    with pytest.raises(InputError, match="sees 2 CUDA devices"):
        find_device("cuda:2")


def test_several_gpus_are_named_in_a_list(monkeypatch):
    monkeypatch.setattr("csplade.core.device._has_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert find_devices("cuda:2, cuda:0") == ("cuda:2", "cuda:0")
    assert find_devices("cuda:all") == ("cuda:0", "cuda:1", "cuda:2")
    assert find_devices("cpu") == ("cpu",)
    assert find_devices("auto") == ("cuda:0",)
    with pytest.raises(InputError, match="'cuda:0,cuda' names a GPU twice"):
        find_devices("cuda:0,cuda")
    with pytest.raises(InputError, match=r"scoring.device: 'cuda:0,cpu' is unknown; .* only GPUs"):
        find_devices("cuda:0,cpu", "scoring.device")
    with pytest.raises(InputError, match="'cuda:3' is not available"):
        find_devices("cuda:1,cuda:3")


@pytest.mark.skipif(GPUS > 0, reason="this machine has a GPU")
def test_all_of_no_gpus_is_rejected():
    with pytest.raises(InputError, match="'cuda' is not available"):
        find_devices("cuda:all")


def test_the_cpu_needs_no_torch():
    program = (
        "import sys; from csplade.core.device import find_device; find_device('cpu');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
