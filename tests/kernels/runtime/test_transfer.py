import numpy as np
import pytest
import torch

from csplade.kernels.runtime.transfer import Clock, fetch, upload, upload_into

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
def test_uploads_arrive_whole(device, monkeypatch):
    monkeypatch.setattr("csplade.kernels.runtime.transfer.STAGING_BYTES", 1000)
    rng = np.random.default_rng(1)
    for count in (0, 1, 499, 500, 501, 4321):
        array = rng.integers(0, 60_000, count).astype(np.uint16)
        target = torch.full((count,), -1, dtype=torch.int16, device=device)
        upload_into(target, array)
        np.testing.assert_array_equal(target.cpu().numpy().view(np.uint16), array)
    strided = np.arange(10)[::2]
    assert upload(strided, device).tolist() == [0, 2, 4, 6, 8]


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
