import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csplade.core.errors import InputError
from csplade.kernels.select.reference import merge, select


def rows(hits):
    return [
        list(
            zip(
                hits.scores[a:b].tolist(),
                hits.ordinals[a:b].tolist(),
                hits.shards[a:b].tolist(),
                strict=True,
            )
        )
        for a, b in zip(hits.indptr, hits.indptr[1:], strict=False)
    ]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(0, 4),
    documents=st.integers(0, 50),
    k=st.integers(1, 60),
    levels=st.sampled_from([1, 2, 5, 10**6]),
)
def test_blocks_merge_to_the_order_of_a_full_sort(seed, queries, documents, k, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels + 1, (queries, documents)).astype(np.int32)
    mask = (rng.random(documents) < 0.8).astype(np.uint8)
    expected = [
        sorted(
            ((int(s), d, 0) for d, s in enumerate(row) if s > 0 and mask[d]),
            key=lambda hit: (-hit[0], hit[1]),
        )[:k]
        for row in scores
    ]
    assert rows(select(scores, k, mask=mask)) == expected
    cut = documents // 3
    parts = [
        select(np.ascontiguousarray(scores[:, cut:]), k, mask=mask[cut:], first_ordinal=cut),
        select(np.ascontiguousarray(scores[:, :cut]), k, mask=mask[:cut]),
    ]
    assert rows(merge(parts, k)) == expected


def test_ties_go_by_ordinal_then_shard():
    equal = np.full((1, 3), 7, np.int32)
    parts = [select(equal, 10, shard=1), select(equal, 10, shard=0)]
    assert rows(merge(parts, 4)) == [[(7, 0, 0), (7, 0, 1), (7, 1, 0), (7, 1, 1)]]


@pytest.mark.parametrize("k", [0, -1, 10_001])
def test_k_out_of_range_is_rejected(k):
    with pytest.raises(InputError, match=f"k: {k} is out of range; allowed 1 to 10000"):
        select(np.zeros((1, 1), np.int32), k)


def test_wrong_shapes_are_rejected():
    with pytest.raises(InputError, match="must be int32"):
        select(np.zeros((1, 1)), 1)
    with pytest.raises(InputError, match=r"must be uint8 \[3\]"):
        select(np.zeros((1, 3), np.int32), 1, mask=np.ones(2, np.uint8))
    with pytest.raises(InputError, match=r"same queries, got \[1, 2\]"):
        merge([select(np.zeros((n, 3), np.int32), 1) for n in (1, 2)], 5)
