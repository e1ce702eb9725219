from itertools import pairwise

import pytest
import torch

from csplade.kernels.head.api import head
from csplade.kernels.head.autograd import fused_head
from csplade.kernels.head.reference import head_reference
from csplade.kernels.head.triton import NO_TOKEN, Tile, _tile, pool, sum_rows
from csplade.kernels.runtime.launch import INTERPRETED, capability
from csplade.kernels.topk.api import topk

HALF = [
    torch.float16,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(
            INTERPRETED, reason="the interpreter multiplies the bits of bfloat16 as integers"
        ),
    ),
]
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
            function(leaves[0], leaves[1], offsets, bias=leaves[2], scale=0.5, shift=-0.2)
            * direction
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
        ({"pooled": torch.ones(4)}, r"bool \[T\] = \[4\]"),
        ({"pooled": torch.ones(3, dtype=torch.bool)}, r"bool \[T\] = \[4\]"),
        ({"cu_seqlens": torch.zeros(0)}, r"\[B \+ 1\]"),
    ],
)
def test_rejects(change, message):
    arguments = {
        "hidden": torch.zeros(4, 8),
        "weight": torch.zeros(3, 8),
        "cu_seqlens": torch.tensor([0, 4]),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        head(**arguments)


def on(device, *tensors):
    return [None if tensor is None else tensor.to(device) for tensor in tensors]


def assert_no_worse_than_torch(device, lengths, width, terms, dtype, *, mask=False, **options):
    """The rule: error <= error of torch in the same dtype + 1e-5, both against float64."""
    hidden, weight, bias, offsets = problem(lengths, width, terms, dtype)
    pooled = (
        torch.rand(len(hidden), generator=torch.Generator().manual_seed(9)) < 0.6 if mask else None
    )
    options = {"scale": 0.3, "shift": 0.5, "bias": bias, "pooled": pooled, **options}
    truth = head_reference(hidden.double(), weight.double(), offsets, **options)
    plain = head_reference(hidden, weight, offsets, **options)
    moved = {name: x.to(device) if torch.is_tensor(x) else x for name, x in options.items()}
    ours = fused_head(*on(device, hidden, weight), offsets, **moved).cpu()
    assert ours.dtype == torch.float32
    assert truth.max() > 0
    assert (ours - truth).abs().max() <= (plain - truth).abs().max() + 1e-5
    # The CPU version under the same mask.
    assert (head(hidden, weight, offsets, **options) - truth).abs().max() <= (
        plain - truth
    ).abs().max() + 1e-5


@pytest.mark.parametrize(
    ("lengths", "width", "terms"),
    [
        ([1], 1, 1),
        ([5, 1, 0, 17], 33, 63),
        ([0, 0, 2, 0], 64, 255),
        ([127, 130], 96, 507),
        ([3] * 50, 48, 130),
        ([600], 16, 100),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_kernel_errs_no_more_than_torch(kernel_device, lengths, width, terms, dtype):
    assert_no_worse_than_torch(kernel_device, lengths, width, terms, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_kernel_leaves_out_what_is_not_pooled(kernel_device, dtype):
    assert_no_worse_than_torch(kernel_device, [40, 0, 1, 90], 32, 200, dtype, mask=True)


def test_kernel_without_bias(kernel_device):
    assert_no_worse_than_torch(kernel_device, [7, 9], 32, 40, torch.float16, bias=None)


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("width", "terms"), [(576, 49_152), (768, 30_522), (2048, 128_256)])
def test_kernel_on_the_shapes_of_real_models(width, terms):
    lengths = [12, 500, 0, 128, 1, 333, 64]
    assert_no_worse_than_torch(
        "cuda", lengths, width, terms, torch.bfloat16, scale=width**-0.5, shift=0.0
    )


@pytest.mark.parametrize("tma", [False, True])
@pytest.mark.parametrize("winners", [False, True])
def test_kernel_in_several_groups_of_tiles(kernel_device, tma, winners):
    hidden, weight, bias, offsets = problem([100, 3, 0, 147, 30], 40, 35, torch.float16)
    hidden, weight, bias = on(kernel_device, hidden, weight, bias)
    if tma and 0 < capability(hidden.device) < 90:
        pytest.skip("this device has no tensor copy engine")
    owners = torch.repeat_interleave(torch.arange(5, dtype=torch.int32), offsets.diff()).to(
        kernel_device
    )
    best = torch.zeros(5, 35, dtype=torch.int64 if winners else torch.int32, device=kernel_device)
    pool(
        hidden,
        weight,
        bias,
        owners,
        best,
        0.5,
        0.0,
        tma=tma,
        tile=Tile(16 if INTERPRETED else 64, 16, 32, 4, 2),
    )
    logits = (hidden.float() @ weight.float().T).cpu()
    bits = (best >> 32).to(torch.int32) if winners else best
    for text, (a, b) in enumerate(pairwise(offsets)):
        z = 0.5 * (logits[a:b].amax(0) + bias.cpu()) if b > a else torch.zeros(35)
        torch.testing.assert_close(
            bits[text].view(torch.float32).cpu(), z.relu(), rtol=1e-4, atol=1e-4
        )
        if winners and b > a:
            active = z > 1e-3
            chosen = (NO_TOKEN - (best[text] & NO_TOKEN)).cpu()[active]
            assert ((a <= chosen) & (chosen < b)).all()
            torch.testing.assert_close(
                logits[chosen, active], logits[a:b, active].amax(0), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("function", [head, fused_head])
def test_a_bias_of_minus_infinity_leaves_a_term_out(kernel_device, function):
    hidden, weight, bias, offsets = problem([6, 4], 16, 20)
    bias[::2] = -torch.inf
    leaves = [tensor.to(kernel_device).requires_grad_(True) for tensor in (hidden, weight, bias)]
    weights = function(leaves[0], leaves[1], offsets, bias=leaves[2])
    assert (weights[:, ::2] == 0).all()
    assert (weights[:, 1::2] > 0).any()
    weights.sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    assert not leaves[1].grad[::2].any()


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("shift", [-0.2, 5.0])
def test_gradient_of_the_kernel_equals_autograd_of_the_reference(kernel_device, mask, shift):
    hidden, weight, bias, offsets = problem([70, 0, 4, 1], 44, 90)
    pooled = torch.rand(75, generator=torch.Generator().manual_seed(4)) < 0.6 if mask else None
    direction = torch.randn(4, 90, generator=torch.Generator().manual_seed(1))
    gradients = []
    for function, device in ((fused_head, kernel_device), (head, "cpu"), (head_reference, "cpu")):
        leaves = [
            tensor.to(device, copy=True).requires_grad_(True) for tensor in (hidden, weight, bias)
        ]
        (there,) = on(device, pooled)
        out = function(
            leaves[0], leaves[1], offsets, bias=leaves[2], scale=0.5, shift=shift, pooled=there
        )
        (out * direction.to(device)).sum().backward()
        gradients.append([leaf.grad.cpu() for leaf in leaves])
    for ours, on_cpu, plain in zip(*gradients, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(on_cpu, plain, rtol=1e-4, atol=1e-5)


def test_gradient_of_the_kernel_goes_to_the_first_of_equal_tokens(kernel_device):
    hidden = torch.zeros(300, 16, device=kernel_device)
    hidden[[7, 8, 140, 299]] = 1.0  # in one tile and in others
    hidden.requires_grad_(True)
    fused_head(
        hidden, torch.ones(3, 16, device=kernel_device), torch.tensor([0, 300])
    ).sum().backward()
    assert hidden.grad.any(1).nonzero().tolist() == [[7]]


def test_only_what_needs_a_gradient_gets_one(kernel_device):
    hidden, weight, bias, offsets = problem([3, 2], 16, 8)
    hidden, weight, bias = on(kernel_device, hidden, weight, bias.requires_grad_(True))
    fused_head(hidden, weight, offsets, bias=bias).sum().backward()
    assert hidden.grad is weight.grad is None


def test_sums_of_rows_write_every_element(kernel_device, monkeypatch):
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *shape, **options: empty(*shape, **options).fill_(torch.nan)
    )
    generator = torch.Generator().manual_seed(2)
    rows, coefficients = (
        torch.randn(9, 300, generator=generator),
        torch.randn(70, generator=generator),
    )
    coefficients[::3] = 0
    sources = torch.randint(9, (70,), generator=generator)
    sources[::3] = 2**31 - 1  # a coefficient of 0 has no row
    starts = torch.tensor([0, 0, 1, 40, 40, 63])
    ours = sum_rows(*on(kernel_device, rows, coefficients, sources, starts)).cpu()
    sources[::3] = 0
    for i, (a, b) in enumerate(pairwise(starts)):
        torch.testing.assert_close(
            ours[i], coefficients[a:b] @ rows[sources[a:b]], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_texts_with_hidden_states_that_are_not_finite_are_counted(kernel_device, dtype, bad):
    hidden, weight, bias, offsets = problem([3, 5, 0, 4], 700, 40, dtype)
    hidden[6, 699] = bad
    pooled = torch.ones(12, dtype=torch.bool)
    pooled[9] = False
    hidden[9] = torch.nan
    moved = on(kernel_device, hidden, weight)
    for requires_grad in (False, True):
        moved[0].requires_grad_(requires_grad)
        weights = fused_head(
            *moved, offsets, bias=bias.to(kernel_device), pooled=pooled.to(kernel_device)
        )
        found = topk(weights.detach().cpu(), 5).nonfinite
        assert (found > 0).tolist() == [False, True, False, False]
    clean = head(hidden[8:], weight, torch.tensor([0, 4]), bias=bias, pooled=pooled[8:])
    torch.testing.assert_close(weights[3].detach().cpu(), clean[0], rtol=1e-2, atol=1e-2)
    found = topk(head(hidden, weight, offsets, bias=bias, pooled=pooled), 5).nonfinite
    assert (found > 0).tolist() == [False, True, False, False]


def test_many_tokens_take_the_wide_tile_where_the_device_has_the_memory():
    for tokens, wide, terms in ((1023, True, 128), (1024, True, 256), (1024, False, 128)):
        assert _tile(tokens, torch.bfloat16, even=True, wide=wide).tokens == terms
    assert 3 * 2 * 64 * (128 + 256) <= 227 * 1024


@pytest.mark.parametrize("far", ["hidden", "weight"])
def test_kernel_reads_rows_beyond_two_billion_elements(kernel_device, far_rows, far):
    hidden, weight, bias, offsets = on(kernel_device, *problem([2, 1], 16, 3, torch.float16))
    near = fused_head(hidden, weight, offsets.cpu(), bias=bias)
    rows = far_rows(torch.float16, rows=3, columns=16)
    rows[:] = hidden if far == "hidden" else weight
    hidden, weight = (rows, weight) if far == "hidden" else (hidden, rows)
    assert torch.equal(fused_head(hidden, weight, offsets.cpu(), bias=bias), near)


def test_kernel_writes_beyond_two_billion_elements(kernel_device, far_rows):
    texts, terms = 2**31 // 262_144 + 2, 262_144
    best = far_rows(torch.int32, rows=2, columns=2 * terms).as_strided((texts, terms), (terms, 1))
    hidden = torch.ones(1, 16, device=kernel_device)
    weight = torch.ones(terms, 16, device=kernel_device)
    owners = torch.tensor([texts - 1], dtype=torch.int32, device=kernel_device)
    best[-1] = 0
    pool(
        hidden,
        weight,
        None,
        owners,
        best,
        1.0,
        0.0,
        tile=Tile(16_384, 16, 16, 4, 1) if INTERPRETED else None,
    )
    assert (best[-1].view(torch.float32) == 16).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or INTERPRETED, reason="no CUDA device")
def test_head_on_cuda_takes_the_kernel_with_offsets_on_either_side():
    hidden, weight, bias, offsets = problem([50, 0, 20], 64, 300)
    plain = head(hidden, weight, offsets, bias=bias)
    moved = [tensor.cuda() for tensor in (hidden, weight, bias)]
    for there in (offsets, offsets.cuda()):
        torch.testing.assert_close(
            head(moved[0], moved[1], there, bias=moved[2]).cpu(), plain, rtol=1e-5, atol=1e-5
        )
