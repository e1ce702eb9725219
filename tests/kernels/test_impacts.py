import numpy as np
import pytest
import torch

from csplade.core.vectors import MAX_QUERY_IMPACT, SparseBatch
from csplade.kernels.impacts import quantize, quantize_queries

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
@pytest.mark.parametrize("scale", [0.00125, 0.02, 0.1, 1 / 3])
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
    expected, cut = batch.quantize(scale, MAX_QUERY_IMPACT)
    impacts, clipped = quantize(torch.from_numpy(weights)[None].to(device), scale, MAX_QUERY_IMPACT)
    assert impacts.dtype == torch.int32
    np.testing.assert_array_equal(impacts[0].cpu().numpy(), expected.impacts)
    assert clipped.tolist() == cut.tolist()


def test_padding_stays_zero():
    impacts, clipped = quantize(torch.tensor([[0.5, 0.0], [9.0, 0.0]]), 0.02, 255)
    assert impacts.tolist() == [[25, 0], [255, 0]]
    assert clipped.tolist() == [0, 1]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("max_impact", [255, 1000, 65_280])
def test_queries_get_the_scales_that_the_host_gives_them(device, max_impact):
    rng = np.random.default_rng(7)
    lengths = [0, 1, 2, 40, 300, 2048, 7]
    rows = [(np.arange(n), rng.lognormal(0, 2, n)) for n in lengths]
    rows += [([0, 1], [3e38, 1e-40]), (np.arange(50), np.full(50, 1 / 3)), ([2, 5], [7.0, 3.0])]
    rows += [(np.arange(200), np.full(200, 4095.0)), ([1], [4096.0])]
    expected = SparseBatch.from_rows(rows).quantize_queries(max_impact)
    weights = np.zeros((len(rows), 2050), dtype=np.float32)
    for row, (terms, values) in enumerate(rows):
        weights[row, : len(terms)] = values
    impacts, scales = quantize_queries(torch.from_numpy(weights).to(device), max_impact)
    np.testing.assert_array_equal(scales.cpu().numpy(), expected.scales)
    for row, (_, wanted) in enumerate(expected):
        found = impacts[row].cpu().numpy()
        np.testing.assert_array_equal(found[: len(wanted)], wanted)
        assert not found[len(wanted) :].any()
    none, _ = quantize_queries(torch.zeros((2, 0), device=device), max_impact)
    assert none.shape == (2, 0)
