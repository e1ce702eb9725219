import numpy as np
import pytest
import torch

from csplade.kernels.topk import topk


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
    chosen, values, counts = topk(torch.from_numpy(weights), k)
    for row in range(4):
        expected = by_sorting(weights[row], k)
        assert counts[row] == len(expected)
        found = list(
            zip(chosen[row, : counts[row]].tolist(), values[row, : counts[row]].tolist(), strict=True)
        )
        assert found == expected
        assert (chosen[row, counts[row] :] == -1).all()
        assert (values[row, counts[row] :] == 0).all()


def test_widest_row():
    weights = torch.zeros(1, 262_144)
    weights[0, 262_143] = 1.0
    chosen, values, counts = topk(weights, 5)
    assert (chosen[0, 0], values[0, 0], counts[0]) == (262_143, 1.0, 1)


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
def test_refuses(weights, k, message):
    with pytest.raises(ValueError, match=message):
        topk(weights, k)
