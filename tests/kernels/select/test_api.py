import numpy as np
import pytest
import torch

from csplade.core.errors import InputError
from csplade.core.ranking_key import LAST_ARRIVAL
from csplade.kernels.select.api import merge_keys, select_keys, unpack_keys


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fill what ``torch.empty`` returns with the largest numbers, so that nothing passes by reading
    old zeros.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def random_keys(rng, rows, width, levels, empty):
    """Distinct keys per row: a score from ``levels`` and the place below it; a share of them 0."""
    scores = rng.choice(levels, (rows, width)) * (rng.random((rows, width)) >= empty)
    keys = scores.astype(np.int64) << 32 | (LAST_ARRIVAL - np.arange(width))
    return np.where(scores > 0, keys, 0)


SCORES = {
    "small": np.arange(1, 50),
    "wide": np.random.default_rng(0).integers(1, 2**31, 10_000),
    "all equal": np.array([7]),
    "at the ends": np.array([1, 2**31 - 1]),
    "neighbours": 2**20 + np.arange(3),
}


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize(
    ("width", "k"),
    [(1, 1), (1, 5), (63, 63), (4_097, 1), (4_097, 1_000), (9_001, 4_200), (5_000, 6_000)],
)
def test_picks_the_greatest_and_a_bound_that_only_they_reach(kernel_device, scores, width, k):
    keys = random_keys(np.random.default_rng(width + k), 3, width, SCORES[scores], 0.3)
    keys[1] = 0
    for counts in ([width] * 3, [width, width, width // 2]):
        given = np.array(counts, np.int32)
        filled = np.arange(width) < given[:, None]
        held = np.where(filled, keys, 0)
        expected = -np.sort(-held, axis=1)[:, :k]
        expected = np.pad(expected, ((0, 0), (0, k - expected.shape[1])))
        poisoned = np.where(filled, keys, 2**62)
        for backend in ("torch", "triton"):
            best, kept, least = select_keys(
                torch.from_numpy(poisoned).to(kernel_device),
                k,
                torch.from_numpy(given).to(kernel_device),
                backend=backend,
            )
            np.testing.assert_array_equal(best.cpu().sort(dim=1, descending=True).values, expected)
            np.testing.assert_array_equal(kept.cpu(), (expected > 0).sum(axis=1))
            reached = held >= least.cpu().numpy()[:, None]
            np.testing.assert_array_equal(reached.sum(axis=1), kept.cpu())
            assert (least >= 1).all()


def test_keys_merge_whatever_their_order_and_unpack(kernel_device):
    shards, rng = 3, np.random.default_rng(4)
    scores, ordinals = rng.integers(1, 4, 60), rng.permutation(20).repeat(3)
    numbers = np.tile(np.arange(3), 20)
    keys = scores.astype(np.int64) << 32 | (LAST_ARRIVAL - (ordinals * shards + numbers))
    order = np.lexsort((numbers, ordinals, -scores))
    parts = [
        torch.from_numpy(keys[cut])[None].to(kernel_device)
        for cut in np.split(np.arange(60), [7, 7, 31])
    ]
    best, counts = merge_keys([torch.nn.functional.pad(part, (0, 4)) for part in parts], 70)
    found = [one.cpu().numpy() for one in unpack_keys(best[0, :60], shards)]
    for mine, theirs, dtype in zip(
        found, (numbers, ordinals, scores), (np.int32, np.int64, np.int32), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs[order])
        assert mine.dtype == dtype
    assert counts.tolist() == [60]
    assert best[0, 60:].tolist() == [0] * 10


def test_the_last_arrival_there_is(kernel_device):
    key = torch.tensor([[5 << 32]], device=kernel_device)
    best, kept, _ = select_keys(
        key, 2, torch.ones(1, dtype=torch.int32).to(key.device), backend="triton"
    )
    assert best.tolist() == [[5 << 32, 0]]
    assert kept.tolist() == [1]
    assert [one.tolist() for one in unpack_keys(best[0, :1], 2)] == [[1], [2**31 - 1], [5]]


def test_an_unknown_backend_is_rejected():
    with pytest.raises(InputError, match="backend: 'fast' is unknown; allowed triton, torch"):
        select_keys(torch.zeros((1, 1), dtype=torch.int64), 1, torch.ones(1), backend="fast")
