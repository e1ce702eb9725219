"""The recorder of tests behaves as CUDA graphs do, and so does that of a GPU."""

import pytest
import torch

from csplade.kernels.runtime.graph import recorder

from ...tape import TapeRecorder

RECORDERS = [
    pytest.param("cpu", id="tape"),
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")],
    ),
]


def recorder_of(device):
    return TapeRecorder() if device == "cpu" else recorder(torch.device(device))


@pytest.mark.parametrize("device", RECORDERS)
def test_a_replay_reads_and_writes_the_recorded_tensors(device):
    source = torch.arange(6, device=device).view(2, 3)
    factor = 3

    def work():
        doubled = source * 2
        doubled[:, 0].add_(100)
        return doubled.flip(1) * factor, doubled.sum()

    recording = recorder_of(device).record(work)
    flipped, total = recording.outputs
    for first in (50, -7):
        source.copy_(torch.arange(first, first + 6).view(2, 3))
        factor = 1000  # Python's values are those of the recording
        recording.replay()
        expected = 2 * torch.arange(first, first + 6).view(2, 3)
        expected[:, 0] += 100
        assert torch.equal(flipped.cpu(), 3 * expected.flip(1))
        assert int(total) == int(expected.sum())


@pytest.mark.parametrize("device", RECORDERS)
@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.nonzero(),
        lambda x: x[x > 1],
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: 1 if x.any() else 0,
    ],
    ids=["nonzero", "a mask as index", "item", "tolist", "a condition"],
)
def test_work_that_waits_for_the_device_is_not_recorded(device, work):
    values = torch.arange(3, device=device)
    with pytest.raises(RuntimeError):
        recorder_of(device).record(lambda: work(values))
    assert values.tolist() == [0, 1, 2]  # reading is possible again


def test_there_is_no_recorder_without_a_gpu():
    assert recorder(torch.device("cpu")) is None
