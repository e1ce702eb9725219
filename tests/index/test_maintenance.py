import shutil
import sqlite3
from pathlib import Path

import numpy as np

from csplade.index import Index, verify


def test_a_sound_index(collection):
    with Index.open(collection[0]) as index:
        report = verify(index, sample=10)
        assert report.ok
        assert (report.documents, report.segments, report.sampled, report.problems) == (
            400,
            6,
            10,
            (),
        )
        assert len(report.checks) == 4
        assert verify(index, sample=10**6).sampled == 400


def test_a_store_that_differs_from_its_segments_is_found(collection, tmp_path):
    path = Path(shutil.copytree(collection[0], tmp_path / "index"))
    with sqlite3.connect(path / "shard-0000" / "documents.sqlite") as store:
        (impacts,) = store.execute("SELECT impacts FROM vectors WHERE ordinal = 3").fetchone()
        assert impacts
        changed = bytes([impacts[0] % 255 + 1]) + impacts[1:]
        store.execute("UPDATE vectors SET impacts = ? WHERE ordinal = 3", (changed,))
    store.close()
    with Index.open(path) as index:
        problems = verify(index, sample=400).problems
    assert any("impacts differs from what the document store gives" in one for one in problems)
    assert any(
        "searcher and oracle differ on the vector of shard 0, ordinal 3" in one for one in problems
    )
    assert all("shard-0001" not in one for one in problems)


def test_a_segment_altered_after_opening_is_found(collection, tmp_path):
    path = Path(shutil.copytree(collection[0], tmp_path / "index"))
    with Index.open(path) as index:
        file = path / "shard-0000" / "segment-000000.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\0")
        assert [str(file) in one for one in verify(index).problems] == [True]


def test_a_searcher_that_is_wrong_is_found(collection, monkeypatch):
    """Verification must see what it is there to see: spoil one posting in memory only."""
    with Index.open(collection[0]) as index:
        segment = index.shards[0].segments[0].segment
        spoiled = np.array(segment.impacts)
        spoiled[0] = spoiled[0] % 255 + 1
        object.__setattr__(segment, "impacts", spoiled)
        problems = verify(index, sample=400).problems
        assert any("impacts differs" in one for one in problems)
        assert any("searcher and oracle differ" in one for one in problems)
