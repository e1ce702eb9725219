import numpy as np
import pytest
import torch

from csplade.kernels.runtime.transfer import Clock, fetch, pack, refill, wait

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_fetch_gives_every_tensor_back_aligned(device):
    made = [
        torch.arange(5, dtype=torch.uint8).reshape(1, 5),
        torch.tensor([[1.5, -2.0], [3.0, 4.0]])[:, :1],
        torch.tensor([1 << 62, -1]),
        torch.empty(0, 7, dtype=torch.int32),
        torch.tensor([True, False, True]),
        torch.tensor(7, dtype=torch.int32),
    ]
    found = fetch(*(one.to(device) for one in made))
    for mine, theirs in zip(found, made, strict=True):
        assert mine.dtype == theirs.numpy().dtype
        assert mine.flags.aligned
        np.testing.assert_array_equal(mine, theirs.numpy())


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_downloaded_is_what_was_there_when_it_was_enqueued(device):
    tensors = [torch.arange(4, device=device), torch.ones(3, dtype=torch.int8, device=device)]
    packed = pack(*tensors)
    first = packed.download()
    packed.data.fill_(7)
    second = packed.download()
    found = wait(first, second)
    assert [one.tolist() for one in found[0]] == [[0, 1, 2, 3], [1, 1, 1]]
    assert found[1][1].tolist() == [7, 7, 7]


@pytest.mark.parametrize("device", DEVICES)
def test_refilling_overwrites_in_place(device):
    target = torch.zeros(5, dtype=torch.int32, device=device)
    array = np.arange(5, dtype=np.int32)
    refill(target[1:], array[1:])
    assert target.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("device", DEVICES)
def test_a_clock_adds_up_stages_of_one_name(device):
    clock = Clock(device)
    for stage in ("encode", "sparsify", "encode"):
        torch.ones(10, device=device).sum()
        clock.mark(stage)
    if device == "cuda":
        torch.cuda.synchronize()
    times = clock.read()
    assert list(times) == ["encode", "sparsify"]
    assert all(spent > 0 for spent in times.values())
