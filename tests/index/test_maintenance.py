import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from csplade.core.errors import CorruptError, CspladeError
from csplade.index import Index, verify
from csplade.index.storage import documents

from . import helpers


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


def change_vector(path, ordinal, *, checksum):
    """Change the first impact of a stored vector, with a checksum that fits or without."""
    with sqlite3.connect(path / "shard-0000" / "documents.sqlite") as store:
        terms, impacts = store.execute(
            "SELECT terms, impacts FROM vectors WHERE ordinal = ?", (ordinal,)
        ).fetchone()
        assert impacts
        impacts = bytes([impacts[0] ^ 1]) + impacts[1:]
        store.execute("UPDATE vectors SET impacts = ? WHERE ordinal = ?", (impacts, ordinal))
        if checksum:
            store.execute(
                "UPDATE vectors SET checksum = ? WHERE ordinal = ?",
                (documents.checksum(ordinal, terms, impacts), ordinal),
            )
    store.close()


def test_a_store_that_differs_from_its_segments_is_found(collection, tmp_path):
    path = Path(shutil.copytree(collection[0], tmp_path / "index"))
    change_vector(path, 3, checksum=True)
    with Index.open(path) as index:
        problems = verify(index, sample=400).problems
    assert any("impacts differs from what the document store gives" in one for one in problems)
    assert any(
        "searcher and oracle differ on the vector of shard 0, ordinal 3" in one for one in problems
    )
    assert all("shard-0001" not in one for one in problems)


def test_an_altered_vector_is_found_and_not_served(collection, tmp_path):
    path = Path(shutil.copytree(collection[0], tmp_path / "index"))
    change_vector(path, 3, checksum=False)
    with Index.open(path) as index:
        with pytest.raises(CorruptError, match="the row of ordinal 3 is altered"):
            index.vectors([0], [3])
        problems = verify(index, sample=400).problems
    assert any("the row of ordinal 3 is altered" in one for one in problems)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", "id-x"),
        ("title", "x"),
        ("text", "x"),
        ("metadata", "{}"),
        ("deleted", 1),
        ("text", 7),
    ],
)
def test_an_altered_document_is_found_and_not_served(collection, tmp_path, column, value):
    path = Path(shutil.copytree(collection[0], tmp_path / "index"))
    with sqlite3.connect(path / "shard-0001" / "documents.sqlite") as store:
        store.execute(f"UPDATE documents SET {column} = ? WHERE ordinal = 7", (value,))
    store.close()
    if column in ("id", "deleted"):  # kept in memory, so checked when the index is opened
        with pytest.raises(CorruptError, match="the row of ordinal 7 is altered"):
            Index.open(path)
        return
    with Index.open(path) as index:
        with pytest.raises(CorruptError, match="the row of ordinal 7 is altered"):
            index.fetch([1], [7])
        assert index.ids([1, 1], [7, 8])
        problems = verify(index, sample=5).problems
    assert any("the row of ordinal 7 is altered" in one for one in problems)


def test_no_flipped_bit_of_a_store_goes_unseen(tmp_path):
    """Every answer is right or an error; what serving does not touch, verify finds or is unused."""
    rng = np.random.default_rng(3)
    vectors = helpers.random_vectors(rng, 60)
    path = helpers.make_index(tmp_path / "index", vectors)
    file = path / "shard-0000" / "documents.sqlite"
    whole = file.read_bytes()
    places = np.arange(60)
    with Index.open(path) as index:
        shards = np.zeros(60, int)
        truth = index.fetch(shards, places), index.ids(shards, places)
        stored = index.vectors(shards, places).impacts.tolist()
    seen = 0
    for bit in rng.integers(0, 8 * len(whole), 150).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            with Index.open(path, threads=1) as index:
                report = verify(index, sample=60)
                seen += not report.ok
                assert index.fetch(shards, places) == truth[0]
                assert index.ids(shards, places) == truth[1]
                assert index.vectors(shards, places).impacts.tolist() == stored
        except CspladeError:
            seen += 1
    assert seen > 30


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
