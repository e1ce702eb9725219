import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from csplade.core.document import Document
from csplade.core.errors import CorruptError, InputError, UnavailableError
from csplade.core.vectors import SparseBatch
from csplade.index import BuildOptions, Index, IndexBuilder, verify
from csplade.index.storage.writable import NewRow, WritableStore

from .. import helpers

# Builds 120 documents in 2 shards and kills itself before the Nth call of a C function made by the
# package; prints the names of all those calls when N is 0. Every write, commit, fsync and rename is
# such a call.
CHILD = """
import os, signal, sys
import numpy as np
from csplade.core.document import Document
from csplade.index import BuildOptions, IndexBuilder
from csplade.core.vectors import SparseBatch

path, fatal = sys.argv[1], int(sys.argv[2])
calls = []

def count(frame, event, argument):
    if event == "c_call" and (frame.f_globals.get("__package__") or "").startswith("csplade"):
        calls.append(argument.__name__)
        if len(calls) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

rng = np.random.default_rng(11)
rows = [(rng.choice(200, 12, replace=False), rng.integers(1, 255, 12) * 0.02) for _ in range(120)]
sys.setprofile(count)
small = {"block_size": 16, "segment_blocks": 2}
builder = IndexBuilder.create(path, BuildOptions(200, shards=2, **small))
for first in range(0, 120, 40):
    documents = [Document(f"d{i}", f"text {i}") for i in range(first, first + 40)]
    builder.add(documents, SparseBatch.from_rows(rows[first:first + 40]))
builder.finish()
sys.setprofile(None)
print(*calls)
"""


def run_child(path, fatal):
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(fatal)],
        capture_output=True,
        text=True,
        check=False,
    )


def complete(path):
    """What a user does after a crash: resume, add what is not safe yet, finish."""
    rng = np.random.default_rng(11)
    rows = [
        (rng.choice(200, 12, replace=False), rng.integers(1, 255, 12) * 0.02) for _ in range(120)
    ]
    if (path / "index.json").exists():
        return
    if not (path / "building.json").exists():
        options = BuildOptions(200, shards=2, block_size=16, segment_blocks=2)
        IndexBuilder.create(path, options).close()
    with IndexBuilder.resume(path) as builder:
        assert builder.documents in (0, 40, 80, 120)  # additions are whole or absent
        for first in range(builder.documents, 120, 40):
            documents = [Document(f"d{i}", f"text {i}") for i in range(first, first + 40)]
            builder.add(documents, SparseBatch.from_rows(rows[first : first + 40]))
        builder.finish()


def contents(path):
    files = [
        *path.glob("shard-*/*.safetensors"),
        *path.glob("shard-*/shard.json"),
        path / "index.json",
    ]
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(files)}


def test_killed_at_any_point_resumes_to_the_same_bytes(tmp_path):
    whole = tmp_path / "whole"
    calls = run_child(whole, 0).stdout.split()
    expected = contents(whole)
    assert len(expected) == 4 + 2 + 1  # 60 documents a shard: 2 segments each
    renames = [i for i, name in enumerate(calls, 1) if name == "replace"]
    assert len(renames) == 3 + 4 + 2 + 1  # building.json, segments, shard.json, index.json
    spread = np.linspace(2, len(calls), 6).astype(int).tolist()
    for fatal in sorted(
        {*spread, *renames[:3], renames[4], renames[-2], renames[-1], renames[-1] + 1}
    ):
        path = tmp_path / f"killed-{fatal}"
        assert run_child(path, fatal).returncode == -signal.SIGKILL
        if fatal <= renames[-1]:
            with pytest.raises(CorruptError, match=r"--resume|index build"):
                Index.open(path)
        complete(path)
        assert contents(path) == expected, f"killed before call {fatal}, {calls[fatal - 1]}"
        with Index.open(path) as index:
            ids = [document.id for document in index.fetch(np.arange(120) % 2, np.arange(120) // 2)]
            assert ids == [f"d{i}" for i in range(120)]
        shutil.rmtree(path)


def test_an_addition_that_reached_only_some_shards_is_taken_back(tmp_path):
    path, vectors = tmp_path / "index", helpers.random_vectors(np.random.default_rng(0), 9)
    with IndexBuilder.create(path, BuildOptions(200, shards=3)) as builder:
        builder.add(helpers.documents(0, 4), vectors.take(np.arange(4)))
    store = WritableStore.open(path / "shard-0001")
    with store.transaction():
        none = np.empty(0, np.int32), np.empty(0, np.uint16)
        store.insert([NewRow(i, Document(f"torn-{i}", "x"), "{}", *none, 0) for i in (1, 2)])
    store.close()
    with IndexBuilder.resume(path) as builder:
        assert builder.documents == 4
        builder.add(helpers.documents(4, 9), vectors.take(np.arange(4, 9)))
        builder.finish()
    with Index.open(path) as index:
        assert index.fetch([1, 1], [1, 2]) == [helpers.documents(i, i + 1)[0] for i in (4, 7)]
        assert verify(index).ok


def test_two_builders_are_kept_apart(tmp_path):
    builder = IndexBuilder.create(tmp_path / "index", BuildOptions(9))
    with pytest.raises(InputError, match="another process is building"):
        IndexBuilder.resume(tmp_path / "index")
    builder.close()
    IndexBuilder.resume(tmp_path / "index").close()


@pytest.mark.parametrize("shards", [1, 3])
def test_duplicate_ids_are_refused_and_the_builder_goes_on(tmp_path, shards):
    vectors = helpers.random_vectors(np.random.default_rng(0), 4)
    with IndexBuilder.create(tmp_path / "index", BuildOptions(200, shards=shards)) as builder:
        builder.add(helpers.documents(0, 4), vectors)
        with pytest.raises(InputError, match="'id-2' is in the index already"):
            builder.add([Document("id-9", "x"), Document("id-2", "x")], vectors.take(np.arange(2)))
        with pytest.raises(InputError, match="'new' occurs twice"):
            builder.add([Document("new", "x"), Document("new", "x")], vectors.take(np.arange(2)))
        assert builder.documents == 4
        builder.add(helpers.documents(4, 6), vectors.take(np.arange(2)))
        assert builder.finish().documents == 6


def one(terms, weights):
    return SparseBatch(
        np.array([0, len(terms)]), np.array(terms, np.int32), np.array(weights, np.float32)
    )


@pytest.mark.parametrize(
    ("document", "vector", "message"),
    [
        (
            Document("a", "x"),
            one([9], [1.0]),
            r"document 'a': term 9, the vocabulary has 9 \(0 to 8\)",
        ),
        (Document("a", "x"), one([-1], [1.0]), "document 'a': term -1"),
        (Document("a", "x"), one([3], [np.nan]), "document 'a': weight of term 3 is nan"),
        (Document("a", "x"), one([3], [-1.0]), "weight of term 3 is -1.0, must be finite and > 0"),
        (Document("a", "x"), one([3, 3], [1.0, 1.0]), "document 'a': terms must ascend strictly"),
        (Document("", "x"), one([3], [1.0]), "document id '' must be a non-empty string"),
        (Document(7, "x"), one([3], [1.0]), "document id 7 must be a non-empty string"),
        (Document("a", "\ud800"), one([3], [1.0]), "document id 'a': text is not valid Unicode"),
        (
            Document("a", "x", metadata={"m": {1}}),
            one([3], [1.0]),
            "document id 'a': metadata is not JSON",
        ),
    ],
)
def test_broken_documents_are_refused(tmp_path, document, vector, message):
    with IndexBuilder.create(tmp_path / "index", BuildOptions(9)) as builder:
        with pytest.raises(InputError, match=message):
            builder.add([document], vector)
        with pytest.raises(InputError, match="1 documents but 2 vectors"):
            builder.add([Document("a", "x")], SparseBatch.from_rows([([1], [1.0])] * 2))
        with pytest.raises(InputError, match="no document was added"):
            builder.finish()


def test_directories_and_settings_that_cannot_be_built(collection, tmp_path):
    sound = BuildOptions(9)
    with pytest.raises(InputError, match="must be absent or an empty directory"):
        IndexBuilder.create(collection[0], sound)
    with pytest.raises(InputError, match="complete, there is nothing to resume"):
        IndexBuilder.resume(collection[0])
    with pytest.raises(InputError, match="no build to resume"):
        IndexBuilder.resume(tmp_path)
    for change, message in (
        ({"shards": 0}, "shards: 0 is out of range; allowed 1 to 9999"),
        ({"vocabulary_size": 0}, "vocabulary_size: 0 is out of range"),
        ({"block_size": 16385}, "block_size: 16385 is out of range"),
        ({"document_scale": float("nan")}, "document_scale: nan is out of range"),
        ({"vocabulary": ["a"]}, "vocabulary: has 1 entries; vocabulary_size is 9"),
    ):
        with pytest.raises(InputError, match=message):
            IndexBuilder.create(tmp_path / "new", replace(sound, **change))
    IndexBuilder.create(tmp_path / "cut", sound).close()
    with pytest.raises(InputError, match="continue with --resume"):
        IndexBuilder.create(tmp_path / "cut", sound)


class FileSizeLimit:
    """A disk that is full for every file beyond a size: writes fail with EFBIG, as they would with
    ENOSPC.
    """

    def __init__(self, size):
        self.size = size

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.mark.parametrize("shards", [1, 2])
def test_full_disk_while_adding_leaves_nothing_half_written(tmp_path, shards):
    path, vectors = tmp_path / "index", helpers.random_vectors(np.random.default_rng(0), 100)
    builder = IndexBuilder.create(path, BuildOptions(200, shards=shards))
    builder.add(helpers.documents(0, 10), vectors.take(np.arange(10)))
    big = [Document(f"big-{i}", "x" * 50_000) for i in range(90)]
    with (
        FileSizeLimit(400_000),
        pytest.raises(UnavailableError, match=r"no space left to write.*build --resume"),
    ):
        builder.add(big, vectors.take(np.arange(10, 100)))
    with pytest.raises(InputError, match="this builder is closed"):
        builder.finish()
    with IndexBuilder.resume(path) as builder:
        assert builder.documents == 10
        builder.add(big, vectors.take(np.arange(10, 100)))
        builder.finish()
    with Index.open(path) as index:
        assert index.manifest.documents == 100
        assert verify(index).ok


def test_full_disk_while_writing_segments_leaves_no_segment(tmp_path):
    path, vectors = tmp_path / "index", helpers.random_vectors(np.random.default_rng(0), 400)
    builder = IndexBuilder.create(path, BuildOptions(200))
    builder.add(helpers.documents(0, 400), vectors)
    with (
        FileSizeLimit(10_000),
        pytest.raises(UnavailableError, match="no space left to write the segments"),
    ):
        builder.finish()
    assert not list(path.glob("shard-*/segment*"))
    with pytest.raises(CorruptError, match="not finished"):
        Index.open(path)
    with IndexBuilder.resume(path) as builder:
        assert builder.documents == 400
        builder.finish()
    with Index.open(path) as index:
        assert verify(index).ok


def test_manifest_and_progress(tmp_path):
    encoder = {"fingerprint": "ab" * 32, "model": "tiny", "manifest": {"variant": "causal"}}
    vocabulary = [f"t{i}" for i in range(200)]
    vectors = SparseBatch.concatenate(
        [
            helpers.random_vectors(np.random.default_rng(0), 70),
            SparseBatch.from_rows([([1, 2], [2000.0, 5.11])]),
        ]
    )
    path = tmp_path / "a" / "index"
    seen = []
    options = BuildOptions(200, encoder, 3, 0.02, vocabulary, block_size=10)
    with IndexBuilder.create(path, options) as builder:
        builder.add(helpers.documents(0, 71), vectors)
        manifest = builder.finish(lambda done, total: seen.append((done, total)))
    assert seen[-1] == (71, 71)
    assert len(seen) == 9
    with Index.open(path) as index:
        assert index.manifest == manifest
    assert (manifest.encoder, manifest.vocabulary, manifest.generation) == (encoder, vocabulary, 1)
    assert manifest.fingerprint == "ab" * 32
    assert [shard.documents for shard in manifest.shards] == [24, 24, 23]
    impacts = vectors.quantize(0.02)[0].impacts
    postings = len(impacts) + (impacts > 255).sum()
    assert (manifest.documents, manifest.clipped) == (71, 1)
    assert (manifest.postings, manifest.max_impact) == (postings, 65_280)
    assert manifest.bytes == sum(file.stat().st_size for file in path.glob("shard-*/*.safetensors"))


def test_a_read_only_index_opens(collection, tmp_path):
    path = Path(shutil.copytree(collection[0], tmp_path / "index"))
    for file in [path, *path.rglob("*")]:
        os.chmod(file, 0o555 if file.is_dir() else 0o444)
    with Index.open(path) as index:
        assert index.fetch([0], [0])[0].id == "id-0"


def test_of_two_creates_in_one_directory_one_fails_in_one_line(tmp_path):
    """Both are past their first look at the directory before either writes."""
    program = """
import sys
from csplade.core.errors import InputError
from csplade.index import BuildOptions, IndexBuilder
print("ready", flush=True)
sys.stdin.readline()
try:
    builder = IndexBuilder.create(sys.argv[1], BuildOptions(9, shards=3))
    print(builder.documents, flush=True)
    sys.stdin.readline()
except InputError as error:
    print(error, flush=True)
"""
    for turn in range(5):
        path = tmp_path / str(turn)
        pair = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for child in pair:
            assert child.stdout.readline() == "ready\n"
        for child in pair:
            child.stdin.write("go\n")
            child.stdin.flush()
        said = sorted((child.stdout.readline() for child in pair), key=len)
        for child in pair:
            child.communicate("end\n")
        assert said[0] == "0\n"
        assert "another process is building" in said[1] or "continue with --resume" in said[1]
        IndexBuilder.resume(path).close()


def test_stores_of_another_version_are_refused(tmp_path):
    IndexBuilder.create(tmp_path / "index", BuildOptions(9)).close()
    with sqlite3.connect(tmp_path / "index" / "shard-0000" / "documents.sqlite") as store:
        store.execute("PRAGMA user_version = 1")
    store.close()
    with pytest.raises(CorruptError, match="store version 1, this program reads 2 and 3"):
        IndexBuilder.resume(tmp_path / "index")
