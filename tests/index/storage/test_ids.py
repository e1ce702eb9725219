"""Ids in memory are those of the store, whatever their letters."""

import numpy as np

from csplade.index.storage.ids import ResidentIds


def test_ids_come_back_in_the_order_asked_for():
    ids = ["a", "", "ünï", "d" * 300, "日本", "x y"]
    resident = ResidentIds(ids)
    assert len(resident) == 6
    order = np.array([4, 0, 5, 2, 2, 3, 1])
    assert resident.take(order) == [ids[i] for i in order]
    assert resident.take(np.empty(0, np.int64)) == []
    assert resident.nbytes == 7 * 8 + sum(len(one.encode()) for one in ids)


def test_a_shard_may_be_empty():
    assert len(ResidentIds([])) == 0
