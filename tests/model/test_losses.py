import math

import pytest
import torch

from csplade.model.training import losses


def test_adaptation_is_the_sum_of_two_cross_entropies():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    targets = torch.tensor([0, 2])
    expected = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        for values in (row, [math.log1p(max(0.0, 0.5 * x - 0.1)) for x in row]):
            expected += (math.log(sum(map(math.exp, values))) - values[target]) / 2
    assert losses.adaptation(logits, targets, scale=0.5, shift=-0.1).item() == pytest.approx(
        expected, rel=1e-6
    )


def test_info_nce_by_hand_and_without_ignored_pairs():
    scores = torch.tensor([[1.0, 2.0, 0.0]])
    positives = torch.tensor([0])
    whole = -math.log(math.e / (math.e + math.e**2 + 1))
    assert losses.info_nce(scores, positives).item() == pytest.approx(whole, rel=1e-6)
    ignored = torch.tensor([[False, True, False]])
    assert losses.info_nce(scores, positives, ignored).item() == pytest.approx(
        -math.log(math.e / (math.e + 1)), rel=1e-6
    )


def test_flops_is_the_squared_mean_activation():
    assert losses.flops(torch.tensor([[1.0, 0.0], [3.0, 4.0]])).item() == 2.0**2 + 2.0**2


def test_ramp_is_quadratic_and_ends_at_one():
    assert [losses.ramp(step, 10) for step in (0, 5, 10, 99)] == [0.0, 0.25, 1.0, 1.0]
    assert losses.ramp(0, 0) == 1.0
