import hashlib
import json
import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from csplade.core.errors import CorruptError, InputError
from csplade.index import Index, repair, verify
from csplade.index.storage.blocks import make_block
from csplade.index.storage.documents import Rows
from csplade.index.storage.manifest import IndexManifest, write_checked
from csplade.index.storage.segment import Segment, read_segment, write_segment

from .. import helpers


@pytest.fixture
def index_copy(collection, tmp_path):
    return Path(shutil.copytree(collection[0], tmp_path / "index"))


def first_segment(path):
    return path / "shard-0001" / "segment-000001.safetensors"


def rewrite(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def test_the_safetensors_library_reads_a_segment(collection):
    index = IndexManifest.open(collection[0])
    manifest = index.shards[1].segments[1]
    theirs, ours = (
        load_file(first_segment(collection[0])),
        read_segment(collection[0] / "shard-0001", manifest, index),
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
    impacts, _ = vectors.quantize(helpers.SCALE)
    assert impacts.impacts.max() > 255
    found = {}
    with Index.open(path) as index:
        for shard, first, block in index.blocks():
            block.check()
            for row, term in enumerate(block.terms.tolist()):
                for p in range(block.indptr[row], block.indptr[row + 1]):
                    ordinal = first + int(block.locals[p])
                    high, term_of = divmod(term, helpers.VOCABULARY)
                    place = (ordinal * 2 + shard, term_of, high)
                    assert place not in found
                    found[place] = int(block.impacts[p])
    expected = {
        (i, term, high): (impact - 1) // 255 if high else (impact - 1) % 255 + 1
        for i, (terms, values) in enumerate(impacts)
        for term, impact in zip(terms.tolist(), values.tolist(), strict=True)
        for high in (0, 1)
    }
    assert found == {place: byte for place, byte in expected.items() if byte}


def test_the_largest_term_impact_and_local_survive():
    documents = 1 << 14
    indptr = np.concatenate([np.zeros(documents), [2]]).astype(np.int64)
    rows = Rows(indptr, np.array([0, 2**31 - 1], np.int32), np.array([1, 255], np.uint16))
    block = make_block(rows, 2**31 - 1)
    block.check()
    assert (block.terms.tolist(), block.locals.tolist(), block.impacts.tolist()) == (
        [0, 2**31 - 1],
        [documents - 1] * 2,
        [1, 255],
    )


def test_the_largest_impact_of_two_bytes_survives():
    most = 2**30
    rows = Rows(
        np.array([0, 2, 3]),
        np.array([0, most - 1, 5], np.int32),
        np.array([256, 65_280, 9], np.uint16),
    )
    block = make_block(rows, most)
    block.check()
    assert block.terms.tolist() == [0, 5, most - 1, most, 2 * most - 1]
    assert block.impacts.tolist() == [1, 9, 255, 1, 255]
    assert block.locals.tolist() == [0, 1, 0, 0, 0]


def one_block(**changes):
    rows = Rows(np.array([0, 1]), np.array([5], np.int32), np.array([9], np.uint16))
    block = make_block(rows, 10)
    return Segment(**vars(Segment.from_blocks([block, block])) | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_term_indptr": np.array([0, 1, 3])}, "block_term_indptr must run"),
        ({"block_term_indptr": np.array([0, 1])}, "must have one entry more"),
        ({"block_term_indptr": np.array([0, 3, 2])}, "must ascend"),
        ({"indptr": np.array([0, 2**40, 2])}, "must ascend"),
        ({"indptr": np.array([0, 1, 3])}, "indptr must run"),
        ({"terms": np.array([5, 20], np.int32)}, "a term is above 19"),
        ({"terms": np.array([-1, 5], np.int32)}, "terms must be >= 0"),
        ({"block_documents": np.array([1, 2], np.int32)}, "more than 1 documents"),
        ({"block_documents": np.array([0, 1], np.int32)}, "lacks documents"),
        ({"block_documents": np.array([1, -1], np.int32)}, "documents is -1|documents: -1"),
        ({"locals": np.array([0, 7], np.uint16)}, "local number is >= the block's 1"),
        ({"impacts": np.array([9, 0], np.uint8)}, "an impact is 0"),
    ],
)
def test_postings_that_would_mislead_a_kernel_are_refused(changes, message):
    one_block().check(1, 20)
    with pytest.raises(InputError, match=message):
        one_block(**changes).check(1, 20)


def forge(path, **changes):
    """Give the first segment other postings, with checksums that fit."""
    shard = json.loads((path / "shard-0000" / "shard.json").read_text())
    index = IndexManifest.open(path)
    wanted = index.shards[0].segments[0]
    segment = read_segment(path / "shard-0000", wanted, index)
    forged = Segment(**vars(segment) | changes)
    file = path / "shard-0000" / wanted.file
    manifest = write_segment(file, forged, wanted.first_ordinal, wanted.stop_ordinal)
    shard["segments"][0] = vars(manifest) | {"documents": wanted.documents}
    del shard["checksum"]
    write_checked(path / "shard-0000" / "shard.json", shard)
    return segment


def test_hostile_postings_with_a_valid_checksum_do_not_reach_a_kernel(index_copy):
    index = IndexManifest.open(index_copy)
    segment = read_segment(index_copy / "shard-0000", index.shards[0].segments[0], index)
    locals_ = np.array(segment.locals)
    locals_[-1] = 60_000
    forge(index_copy, locals=locals_)
    with pytest.raises(
        CorruptError, match=r"is not a segment: .*local number is >= .*; .*--repair"
    ):
        Index.open(index_copy)


def test_headers_that_lie_are_refused(index_copy):
    manifest = IndexManifest.open(index_copy)
    wanted = manifest.shards[0].segments[0]
    file = index_copy / "shard-0000" / wanted.file
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    for change in (
        {"terms": None},
        {"terms": {"dtype": "F64", "data_offsets": [0, 8]}},
        {"terms": {"dtype": "I64", "data_offsets": [0, 8]}},
        {"terms": {"dtype": "I32", "data_offsets": [0, 2**50]}},
        {"terms": {"dtype": "I32", "data_offsets": [-8, 8]}},
        {"terms": {"dtype": "I32", "data_offsets": [0, 3]}},
        {"terms": {"dtype": "I32"}},
        {"terms": {"dtype": "I32", "data_offsets": "ab"}},
    ):
        text = json.dumps(header | change).encode()
        forged = len(text).to_bytes(8, "little") + text + raw[8 + size :]
        file.write_bytes(forged)
        entry = replace(wanted, bytes=len(forged), sha256=hashlib.sha256(forged).hexdigest())
        with pytest.raises(CorruptError, match="is not a segment"):
            read_segment(file.parent, entry, manifest)
    file.write_bytes((2**63).to_bytes(8, "little"))
    entry = replace(wanted, bytes=8, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    with pytest.raises(CorruptError, match="is not a segment"):
        read_segment(file.parent, entry, manifest)


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
    rewrite(file, **({"document_scale": 1.0} if name == "index.json" else {"documents": 7}))
    with pytest.raises(CorruptError, match=f"{name}: altered"):
        Index.open(index_copy)


def test_another_format_version_is_refused(index_copy):
    rewrite(index_copy / "index.json", format_version=1)
    with pytest.raises(CorruptError, match=r"index.json: format version 1, this program reads 2"):
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
    with pytest.raises(
        CorruptError,
        match=r"5 rows from ordinal 96 on, segment-000001.safetensors holds 96 documents",
    ):
        Index.open(index_copy)


@pytest.mark.parametrize(
    "name",
    ["../../victim", "/victim", "..", "", ".hidden", "a/b", "nul\0", 7, None, ["x"], "\ud800/.."],
)
def test_segment_names_stay_inside_the_directory(index_copy, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = index_copy / "shard-0000" / "shard.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    content["segments"][0]["file"] = name
    try:
        write_checked(path, content)
    except UnicodeEncodeError:
        return
    for use in (Index.open, repair):
        with pytest.raises(CorruptError, match=r"shard.json: .*(not a file name|wrong fields)"):
            use(index_copy)
    assert victim.read_text() == "mine"


def test_links_are_not_followed(index_copy, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    file = first_segment(index_copy)
    file.unlink()
    file.symlink_to(victim)
    with pytest.raises(CorruptError, match="is not a plain file"):
        Index.open(index_copy)
    file.with_name(file.name + ".part").symlink_to(victim)
    assert repair(index_copy) == [file]
    assert victim.read_text() == "mine"
    assert not file.is_symlink()
    shutil.move(index_copy / "shard-0000", tmp_path / "elsewhere")
    (index_copy / "shard-0000").symlink_to(tmp_path / "elsewhere")
    for use in (Index.open, repair):
        with pytest.raises(CorruptError, match="shard-0000: is a link"):
            use(index_copy)


@pytest.mark.parametrize(
    "name",
    [
        "index.json",
        "shard-0000/shard.json",
        "shard-0000/documents.sqlite",
        "shard-0001/segment-000001.safetensors",
    ],
)
def test_pipes_and_directories_do_not_hang(index_copy, name):
    file = index_copy / name
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(CorruptError, match=f"{file.name}: is not a plain file"):
        Index.open(index_copy)
    file.unlink()
    file.mkdir()
    with pytest.raises(CorruptError, match=f"{file.name}: is not a plain file"):
        Index.open(index_copy)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("index.json", {"vocabulary_size": "many"}),
        ("index.json", {"vocabulary_size": 0}),
        ("index.json", {"block_size": 2**20}),
        ("index.json", {"shard_count": True}),
        ("index.json", {"document_scale": "0.02"}),
        ("index.json", {"surprise": 1}),
        ("index.json", {"encoder": []}),
        ("shard-0000/shard.json", {"segments": None}),
        ("shard-0000/shard.json", {"segments": [7]}),
        ("shard-0000/shard.json", {"segments": [{}]}),
        ("shard-0000/shard.json", {"documents": None}),
        ("shard-0000/shard.json", {"shard": [0]}),
    ],
)
def test_manifests_with_a_valid_checksum_and_wrong_fields_give_one_line(index_copy, name, changes):
    path = index_copy / name
    content = json.loads(path.read_text())
    del content["checksum"]
    write_checked(path, content | changes)
    with pytest.raises(CorruptError, match=rf"{name}: (has wrong fields|belongs to)") as caught:
        Index.open(index_copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "7", "null", '{"checksum": {}}', "[" * 100_000, "{" + '"a":{' * 5000]
)
def test_manifests_of_another_form_give_one_line(index_copy, text):
    (index_copy / "index.json").write_text(text)
    with pytest.raises(CorruptError, match=r"index.json: (torn|altered)"):
        Index.open(index_copy)
