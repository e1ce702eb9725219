import numpy as np
import pytest
import torch

from csplade.core.vectors import SparseBatch
from csplade.kernels.runtime.launch import INTERPRETED, tl
from csplade.kernels.topk.api import topk
from csplade.kernels.topk.reference import topk_reference
from csplade.kernels.topk.triton import topk_triton

FIELDS = ("terms", "weights", "impacts", "counts", "positive", "clipped", "nonfinite")
DENORMAL = float(np.float32(1e-45))


@pytest.fixture(autouse=True)
def _quick_exclusive_or(monkeypatch):
    """tl.sort is made of exclusive ors, which the interpreter works out one element at a time;
    numpy does it at once.
    """
    if not INTERPRETED:
        return
    from triton.runtime.interpreter import ReduceOps

    plain = ReduceOps.apply_impl

    def apply_impl(self, inputs):
        if self.combine_fn is not tl.standard._xor_combine:
            return plain(self, inputs)
        (values,) = inputs
        result = np.bitwise_xor.reduce(values.handle.data, axis=self.axis, keepdims=self.keep_dims)
        return self.to_tensor(result, values.dtype)

    monkeypatch.setattr(ReduceOps, "apply_impl", apply_impl)


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch):
    """What a kernel forgets to write must show."""
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *shape, **options: empty(*shape, **options).fill_(-77)
    )


def by_sorting(row: np.ndarray, k: int) -> list[tuple[int, float]]:
    """The plain twin: sort (weight descending, term ascending), keep what is positive."""
    order = sorted(range(len(row)), key=lambda term: (-row[term], term))
    return [(term, float(row[term])) for term in order[:k] if row[term] > 0]


@pytest.mark.parametrize(("terms", "k"), [(1, 1), (7, 3), (1000, 64), (5000, 1024), (10, 400)])
@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_equals_sorting_with_ties_to_the_smaller_term(terms, k, levels):
    random = np.random.default_rng(terms + levels)
    weights = (random.integers(-levels, levels, (4, terms)) / levels).astype(np.float32)
    weights[3] = -1
    top = topk(torch.from_numpy(weights), k)
    chosen, values, counts = top.terms, top.weights, top.counts
    for row in range(4):
        expected = by_sorting(weights[row], k)
        assert counts[row] == len(expected)
        found = list(
            zip(
                chosen[row, : counts[row]].tolist(),
                values[row, : counts[row]].tolist(),
                strict=True,
            )
        )
        assert found == expected
        assert (chosen[row, counts[row] :] == -1).all()
        assert (values[row, counts[row] :] == 0).all()


def test_widest_row():
    weights = torch.zeros(1, 262_144)
    weights[0, 262_143] = 1.0
    top = topk(weights, 5)
    assert (top.terms[0, 0], top.weights[0, 0], top.counts[0]) == (262_143, 1.0, 1)


@pytest.mark.parametrize(
    ("weights", "k", "message"),
    [
        (torch.zeros(1, 5), 0, "allowed 1 to 1024"),
        (torch.zeros(1, 5), 1025, "allowed 1 to 1024"),
        (torch.zeros(1, 5, dtype=torch.float64), 1, "float32"),
        (torch.zeros(5), 1, "float32"),
        (torch.zeros(1, 262_145), 1, "262144"),
    ],
)
def test_rejects(weights, k, message):
    with pytest.raises(ValueError, match=message):
        topk(weights, k)


def random_rows(rows, terms, levels, seed=0, share=0.5):
    random = np.random.default_rng(seed)
    weights = random.integers(1, levels + 1, (rows, terms)) / levels * 7
    return torch.from_numpy(
        np.where(random.random((rows, terms)) < share, weights, 0).astype(np.float32)
    )


def assert_same(ours, plain):
    for field in FIELDS:
        assert torch.equal(getattr(ours, field).cpu(), getattr(plain, field)), field
        assert getattr(ours, field).dtype == getattr(plain, field).dtype


@pytest.mark.parametrize(
    ("rows", "terms", "k", "levels", "share", "chunk"),
    [
        (3, 1, 1, 2, 1.0, 4096),
        (2, 63, 7, 3, 0.5, 4096),
        (
            2,
            700,
            400,
            5,
            1.0,
            512,
        ),  # more positive weights in a chunk than can win, ties at the threshold
        (1, 2000, 255, 10**6, 0.9, 1024),
        (2, 5000, 300, 20, 0.05, 1024),  # the usual case: few positive weights, ties
        (1, 1100, 1024, 10**6, 1.0, 2048),
        (1, 900, 1024, 4, 0.3, 512),  # k above what is positive, and above V
    ],
)
def test_kernels_equal_the_plain_version(kernel_device, rows, terms, k, levels, share, chunk):
    weights = random_rows(rows, terms, levels, share=share)
    ours = topk_triton(weights.to(kernel_device), k, 0.02, 255, chunk=chunk)
    assert_same(ours, topk_reference(weights, k, 0.02, 255))
    assert [row for row in range(rows) if ours.counts[row]]


def test_kernels_on_floats_at_the_edges(kernel_device):
    weights = torch.zeros(4, 40)
    weights[0, :8] = torch.tensor(
        [-0.0, DENORMAL, float("nan"), float("inf"), -1.0, 2 * DENORMAL, 3.0, -float("inf")]
    )
    weights[1] = -0.0
    weights[2] = float("nan")
    top = topk_triton(weights.to(kernel_device), 6, 0.02, 100)
    assert top.terms[0].tolist() == [6, 5, 1, -1, -1, -1]
    assert top.impacts[0].tolist() == [100, 1, 1, 0, 0, 0]
    assert top.counts.tolist() == top.positive.tolist() == [3, 0, 0, 0]
    assert top.clipped.tolist() == [1, 0, 0, 0]
    assert top.nonfinite.tolist() == [3, 0, 40, 0]
    assert_same(top, topk_reference(weights, 6, 0.02, 100))


@pytest.mark.parametrize("k", [1, 100, 300])
def test_weights_of_every_magnitude_fall_into_the_right_bins(kernel_device, k):
    """Powers of two and their neighbours: the edges of the bins and what lies outside."""
    powers = np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32)
    edges = np.concatenate([powers, np.nextafter(powers, np.float32(0)), powers * np.float32(1.25)])
    row = np.random.default_rng(k).permutation(edges[np.isfinite(edges)])
    weights = torch.from_numpy(np.stack([row, row[::-1]]))
    assert_same(
        topk_triton(weights.to(kernel_device), k, 0.02, 255, chunk=256),
        topk_reference(weights, k, 0.02, 255),
    )


def test_kernels_on_the_widest_row_all_positive_and_equal(kernel_device):
    weights = torch.full((1, 262_144), 1.5)
    weights[0, 262_143] = 2.0
    top = topk_triton(
        weights.to(kernel_device), 1024, 0.02, 255, chunk=65_536 if INTERPRETED else 4096
    )
    assert top.terms[0].tolist() == [262_143, *range(1023)]
    assert (top.counts[0], top.positive[0]) == (1024, 262_144)


def test_kernels_on_the_widest_rows_of_few_terms(kernel_device):
    weights = random_rows(2, 262_144, 50, share=0.001)
    assert_same(
        topk_triton(weights.to(kernel_device), 256, 0.02, 255),
        topk_reference(weights, 256, 0.02, 255),
    )


def test_kernels_read_rows_beyond_two_billion_elements(kernel_device, far_rows):
    weights = far_rows(torch.float32, rows=3, columns=50)
    weights[:] = random_rows(3, 50, 9)
    top = topk_triton(weights, 20, 0.02, 255)
    assert_same(top, topk_reference(weights.cpu().contiguous(), 20, 0.02, 255))


@pytest.mark.parametrize(("scale", "maximum"), [(0.02, 255), (0.00125, 4095), (0.1, 7)])
def test_impacts_equal_those_of_the_sparse_batch(kernel_device, scale, maximum):
    random = np.random.default_rng(3)
    # Among them multiples of half a step, where one last digit decides which way to round.
    halves = (random.integers(1, 600, 200) * np.float32(scale) / 2).astype(np.float32)
    row = np.concatenate([halves, random.random(200, np.float32) * 6])
    plain, clipped = SparseBatch.from_rows([(range(400), row)]).quantize(scale, maximum)
    weights = torch.from_numpy(row)[None]
    for top in (
        topk_triton(weights.to(kernel_device), 400, scale, maximum),
        topk_reference(weights, 400, scale, maximum),
    ):
        order = top.terms[0].cpu().argsort()
        assert top.impacts[0].cpu()[order].tolist() == plain.impacts.tolist()
        assert top.clipped.tolist() == clipped.tolist()


def test_no_rows_and_no_terms(kernel_device):
    for rows, terms in ((0, 5), (2, 0)):
        top = topk_triton(torch.zeros(rows, terms, device=kernel_device), 3, 0.02, 255)
        assert top.terms.shape == (rows, min(3, terms))
        assert top.counts.tolist() == [0] * rows


def test_plain_version_leaves_nan_out():
    top = topk(torch.tensor([[1.0, float("nan"), 2.0]]), 3)
    assert top.terms.tolist() == [[2, 0, -1]]
    assert top.counts.tolist() == [2]


def test_without_a_scale_there_are_no_impacts():
    top = topk(torch.tensor([[1.0, 2.0]]), 2)
    assert top.impacts.tolist() == [[0, 0]]
    assert top.clipped.tolist() == [0]


@pytest.mark.parametrize(
    ("scale", "maximum"), [(0.0, 255), (float("nan"), 255), (0.02, 0), (0.02, 4096)]
)
def test_rejects_impacts_out_of_range(scale, maximum):
    with pytest.raises(ValueError, match=f"scale: {scale} and maximum: {maximum}"):
        topk(torch.ones(1, 3), 2, scale=scale, maximum=maximum)
