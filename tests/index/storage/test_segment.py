import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from csplade.core.errors import CorruptError, InputError
from csplade.index import Index, repair, verify
from csplade.index.storage.manifest import IndexManifest
from csplade.index.storage.segment import Segment, make_block, read_segment


@pytest.fixture
def index_copy(collection, tmp_path):
    return Path(shutil.copytree(collection[0], tmp_path / "index"))


def first_segment(path):
    return path / "shard-0001" / "segment-000001.safetensors"


def rewrite(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def test_the_safetensors_library_reads_a_segment(collection):
    manifest = IndexManifest.open(collection[0]).shards[1].segments[1]
    theirs, ours = (
        load_file(first_segment(collection[0])),
        read_segment(collection[0] / "shard-0001", manifest),
    )
    assert sorted(theirs) == [
        "block_documents",
        "block_term_indptr",
        "impacts",
        "indptr",
        "locals",
        "terms",
    ]
    for name, array in theirs.items():
        np.testing.assert_array_equal(array, getattr(ours, name))
        assert array.dtype == getattr(ours, name).dtype
        assert getattr(ours, name).flags.aligned


def test_blocks_hold_every_posting_once(collection):
    path, vectors = collection
    impacts = vectors.quantize(0.02, 255)
    found = set()
    with Index.open(path) as index:
        for shard, first, block in index.blocks():
            block.check()
            for row, term in enumerate(block.terms.tolist()):
                for p in range(block.indptr[row], block.indptr[row + 1]):
                    ordinal = first + int(block.locals[p])
                    found.add((ordinal * 2 + shard, term, int(block.impacts[p])))
    expected = {
        (i, term, impact)
        for i, (terms, values) in enumerate(impacts)
        for term, impact in zip(terms.tolist(), values.tolist(), strict=True)
    }
    assert found == expected
    assert len(expected) == len(impacts.terms)


def test_the_largest_term_impact_and_local_survive():
    documents = 1 << 14
    indptr = np.concatenate([np.zeros(documents), [2]]).astype(np.int64)
    block = make_block(indptr, np.array([0, 2**31 - 1], np.int32), np.array([1, 255], np.uint8))
    block.check()
    assert (block.terms.tolist(), block.locals.tolist(), block.impacts.tolist()) == (
        [0, 2**31 - 1],
        [documents - 1] * 2,
        [1, 255],
    )


def test_segment_check_sees_a_broken_join():
    block = make_block(np.array([0, 1]), np.array([5], np.int32), np.array([9], np.uint8))
    sound = Segment.from_blocks([block, block])
    sound.check()
    with pytest.raises(InputError, match="block_term_indptr must run"):
        Segment(**vars(sound) | {"block_term_indptr": np.array([0, 1, 3])}).check()


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "longer", "missing", "empty"])
def test_damaged_segments_are_refused_and_repaired(index_copy, damage):
    file = first_segment(index_copy)
    before = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        middle = len(before) // 2
        file.write_bytes(
            {
                "flipped bit": before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :],
                "cut short": before[:-1],
                "longer": before + b"\0",
                "empty": b"",
            }[damage]
        )
    with pytest.raises(CorruptError, match=r"segment-000001.safetensors: .*verify --repair"):
        Index.open(index_copy)
    assert repair(index_copy) == [file]
    assert file.read_bytes() == before
    with Index.open(index_copy) as index:
        assert verify(index).ok
    assert repair(index_copy) == []


@pytest.mark.parametrize("name", ["index.json", "shard-0000/shard.json"])
def test_torn_and_altered_manifests_are_refused(index_copy, name):
    file = index_copy / name
    whole = file.read_text()
    for cut in (0, 1, len(whole) // 2, len(whole) - 3):
        file.write_text(whole[:cut])
        with pytest.raises(CorruptError, match=f"{name}: torn"):
            Index.open(index_copy)
    file.write_text("[]")
    with pytest.raises(CorruptError, match=f"{name}: torn"):
        Index.open(index_copy)
    file.write_text(whole)
    rewrite(file, **({"query_scale": 1.0} if name == "index.json" else {"documents": 7}))
    with pytest.raises(CorruptError, match=f"{name}: altered"):
        Index.open(index_copy)


def test_another_format_version_is_refused(index_copy):
    rewrite(index_copy / "index.json", format_version=2)
    with pytest.raises(CorruptError, match=r"index.json: format version 2, this program reads 1"):
        Index.open(index_copy)


def test_shards_of_another_place_are_refused(index_copy):
    for first, second in (
        ("shard-0000", "swap"),
        ("shard-0001", "shard-0000"),
        ("swap", "shard-0001"),
    ):
        (index_copy / first).rename(index_copy / second)
    with pytest.raises(CorruptError, match=r"shard.json: belongs to another shard or index"):
        Index.open(index_copy)


def test_missing_pieces_are_named(index_copy, tmp_path):
    (index_copy / "shard-0001" / "documents.sqlite").rename(tmp_path / "away")
    with pytest.raises(CorruptError, match=r"documents.sqlite: missing"):
        Index.open(index_copy)
    (index_copy / "shard-0000" / "shard.json").unlink()
    with pytest.raises(CorruptError, match=r"shard.json: missing"):
        Index.open(index_copy)
    with pytest.raises(CorruptError, match="no index here"):
        Index.open(tmp_path / "nowhere")


def test_a_store_that_is_no_database_or_lost_documents_is_refused(index_copy):
    store = index_copy / "shard-0001" / "documents.sqlite"
    whole = store.read_bytes()
    store.write_bytes(b"x" * len(whole))
    with pytest.raises(CorruptError, match=r"documents.sqlite: .*not a database"):
        Index.open(index_copy)
    store.write_bytes(b"")
    with pytest.raises(CorruptError, match=r"documents.sqlite: no such table"):
        Index.open(index_copy)
    shutil.copy(index_copy / "shard-0000" / "documents.sqlite", store)
    with sqlite3.connect(store) as connection:
        connection.execute("DELETE FROM documents WHERE ordinal > 100")
    connection.close()
    with pytest.raises(CorruptError, match=r"101 documents, the manifest says 200"):
        Index.open(index_copy)
