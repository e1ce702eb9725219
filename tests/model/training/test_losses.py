import math

import numpy as np
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


def softmax(values):
    exponents = np.exp(np.array(values) - max(values))
    return exponents / exponents.sum()


def test_kl_by_hand_over_listed_passages_only():
    scores = torch.tensor([[1.0, 9.0, 3.0, 0.5], [2.0, 0.0, 1.0, -1.0]])
    teacher = torch.tensor([[2.0, -7.0, 1.0, 0.0], [0.0, 4.0, 0.5, 1.5]])
    listed = torch.tensor([[True, False, True, True], [False, True, True, False]])
    expected = 0.0
    for row in range(2):
        here = listed[row].numpy()
        wanted, got = softmax(teacher[row].numpy()[here]), softmax(scores[row].numpy()[here])
        expected += float((wanted * (np.log(wanted) - np.log(got))).sum()) / 2
    assert losses.kl(scores, teacher, listed).item() == pytest.approx(expected, rel=1e-5)


def test_kl_has_a_finite_gradient_where_passages_are_not_listed():
    scores = torch.tensor([[1.0, 9.0, 3.0]], requires_grad=True)
    losses.kl(
        scores, torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[True, False, True]])
    ).backward()
    assert scores.grad[0, 1] == 0
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0, 0] != 0


def test_margin_mse_by_hand():
    scores = torch.tensor([[5.0, 3.0, 9.0, 2.0]])
    teacher = torch.tensor([[8.0, 7.0, 0.0, 1.0]])
    listed = torch.tensor([[True, True, False, True]])
    expected = (((5 - 3) - (8 - 7)) ** 2 + ((5 - 2) - (8 - 1)) ** 2) / 2
    assert losses.margin_mse(scores, teacher, torch.tensor([0]), listed).item() == pytest.approx(
        expected
    )


def test_l1_is_the_mean_sum_of_weights():
    assert losses.l1(torch.tensor([[1.0, 0.0], [3.0, 4.0]])).item() == (1.0 + 7.0) / 2


def test_flops_is_the_squared_mean_activation():
    assert losses.flops(torch.tensor([[1.0, 0.0], [3.0, 4.0]])).item() == 2.0**2 + 2.0**2


def test_ramp_is_quadratic_and_ends_at_one():
    assert [losses.ramp(step, 10) for step in (0, 5, 10, 99)] == [0.0, 0.25, 1.0, 1.0]
    assert losses.ramp(0, 0) == 1.0
