import pytest
import torch

from csplade.kernels.head import head, head_reference

SHAPES = [([5, 1, 0, 17], 33, 50), ([0], 8, 3), ([64, 63], 16, 2049), ([3, 3, 3], 24, 4100)]


def problem(lengths, width, terms, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(lengths) + width + terms)
    hidden = torch.randn(sum(lengths), width, generator=generator).to(dtype)
    weight = torch.randn(terms, width, generator=generator).to(dtype)
    bias = torch.randn(terms, generator=generator)
    return hidden, weight, bias, torch.tensor([0, *lengths]).cumsum(0)


@pytest.mark.parametrize(("lengths", "width", "terms"), SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_reference_in_float32(lengths, width, terms, with_bias):
    hidden, weight, bias, offsets = problem(lengths, width, terms)
    options = {"bias": bias if with_bias else None, "scale": 0.3, "shift": -0.7}
    torch.testing.assert_close(
        head(hidden, weight, offsets, **options),
        head_reference(hidden, weight, offsets, **options),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize(("lengths", "width", "terms"), SHAPES)
def test_bfloat16_errs_no_more_than_torch_in_bfloat16(lengths, width, terms):
    hidden, weight, bias, offsets = problem(lengths, width, terms, torch.bfloat16)
    truth = head_reference(hidden.float(), weight.float(), offsets, bias=bias)
    plain = head_reference(hidden, weight, offsets, bias=bias)
    ours = head(hidden, weight, offsets, bias=bias)
    assert (ours - truth).abs().max() <= (plain - truth).abs().max() + 1e-5


def test_text_without_tokens_gives_zeros_even_with_a_positive_shift():
    hidden, weight, bias, offsets = problem([0, 2, 0], 8, 6)
    weights = head(hidden, weight, offsets, bias=bias, shift=5.0)
    assert weights[0].tolist() == weights[2].tolist() == [0.0] * 6
    assert weights[1].any()


def test_gradient_equals_autograd_of_the_reference():
    hidden, weight, bias, offsets = problem([7, 0, 4], 12, 90)
    direction = torch.randn(3, 90, generator=torch.Generator().manual_seed(1))
    gradients = []
    for function in (head, head_reference):
        leaves = [tensor.clone().requires_grad_(True) for tensor in (hidden, weight, bias)]
        (
            function(leaves[0], leaves[1], offsets, bias=leaves[2], scale=0.5, shift=-0.2) * direction
        ).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for ours, plain in zip(*gradients, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_gradient_of_an_equal_maximum_goes_to_the_first_token():
    hidden = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    head(hidden, torch.tensor([[2.0, 0.0]]), torch.tensor([0, 2])).sum().backward()
    assert hidden.grad[0].any()
    assert not hidden.grad[1].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(3, 9)}, r"\[T, H\] and \[V, H\]"),
        ({"weight": torch.zeros(3, 8, dtype=torch.bfloat16)}, "bfloat16"),
        ({"cu_seqlens": torch.tensor([0, 3])}, "T = 4"),
        ({"cu_seqlens": torch.tensor([0, 3, 2, 4])}, "ascend"),
        ({"bias": torch.zeros(4)}, r"\[V\] = \[3\]"),
        ({"scale": 0.0}, "must be > 0"),
    ],
)
def test_refuses(change, message):
    arguments = {
        "hidden": torch.zeros(4, 8),
        "weight": torch.zeros(3, 8),
        "cu_seqlens": torch.tensor([0, 4]),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        head(**arguments)
