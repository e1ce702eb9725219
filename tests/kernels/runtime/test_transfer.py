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


class Machine:
    """Two GPUs whose copies run when somebody waits for them, each stream in its order."""

    def __init__(self, monkeypatch):
        self.current, self.queues = 0, {0: [], 1: []}
        machine = self

        class Device:
            def __init__(self, device):
                self.index = torch.device(device).index

            def __enter__(self):
                self.before, machine.current = machine.current, self.index

            def __exit__(self, *_):
                machine.current = self.before

        class Event:
            stream = None

            def record(self, stream=None):
                self.stream = machine.current if stream is None else stream
                self.end = len(machine.queues[self.stream])

            def synchronize(self):
                if self.stream is not None:
                    machine.run(self.stream, self.end)

        empty = torch.empty
        monkeypatch.setattr(torch.cuda, "device", Device)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(
            torch, "empty", lambda *shape, pin_memory=False, **more: empty(*shape, **more)
        )

    def run(self, stream, end):
        for i, work in enumerate(self.queues[stream][:end]):
            if work is not None:
                work()
                self.queues[stream][i] = None


class OnSecondDevice:
    """A tensor on cuda:1 as far as uploading looks at it."""

    is_cuda, device = True, torch.device("cuda", 1)

    def __init__(self, memory, machine):
        self.memory, self.machine = memory, machine

    def view(self, dtype):
        return OnSecondDevice(self.memory.view(dtype), self.machine)

    def __getitem__(self, span):
        return OnSecondDevice(self.memory[span], self.machine)

    def copy_(self, source, non_blocking):
        assert non_blocking
        self.machine.queues[1].append(lambda: self.memory.copy_(source))


def test_pinned_buffers_are_not_overwritten_while_another_device_copies(monkeypatch):
    monkeypatch.setattr("csplade.kernels.runtime.transfer.STAGING_BYTES", 1000)
    machine = Machine(monkeypatch)
    array = np.random.default_rng(1).integers(0, 60_000, 4321).astype(np.uint16)
    memory = torch.full((4321,), -1, dtype=torch.int16)
    upload_into(OnSecondDevice(memory, machine), array)
    np.testing.assert_array_equal(memory.numpy().view(np.uint16), array)
    assert machine.current == 0


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
