import numpy as np
import pytest
import torch

from csplade.core.vectors import MAX_QUERY_IMPACT, QUERY_SCALE, SparseBatch
from csplade.kernels.impacts import quantize

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [QUERY_SCALE, 0.02, 0.1, 1 / 3])
def test_equals_what_the_host_makes_of_the_same_weights(device, scale):
    rng = np.random.default_rng(3)
    # Multiples of half a step are where another rounding of the quotient would show.
    halves = (np.arange(1, 200_001) * 0.5 * scale).astype(np.float32)
    weights = np.concatenate(
        [halves, rng.lognormal(0, 2, 200_000).astype(np.float32), np.float32([1e-30, 3e38])]
    )
    batch = SparseBatch(
        np.array([0, len(weights)]), np.arange(len(weights), dtype=np.int32), weights
    )
    expected = batch.quantize(scale, MAX_QUERY_IMPACT)
    impacts, clipped = quantize(torch.from_numpy(weights)[None].to(device), scale, MAX_QUERY_IMPACT)
    assert impacts.dtype == torch.int32
    np.testing.assert_array_equal(impacts[0].cpu().numpy(), expected.impacts)
    assert clipped.tolist() == [expected.clipped]


def test_padding_stays_zero():
    impacts, clipped = quantize(torch.tensor([[0.5, 0.0], [9.0, 0.0]]), 0.02, 255)
    assert impacts.tolist() == [[25, 0], [255, 0]]
    assert clipped.tolist() == [0, 1]
