"""Files from strangers: whatever is in them is read, or rejected in one line. Nothing else.

``--hypothesis-profile=long`` tries more of them, see ``conftest.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from csplade.core.beir import load_dataset
from csplade.core.corpus import read_corpus
from csplade.core.errors import CspladeError
from csplade.core.vectors import ImpactBatch
from csplade.index import Index, IndexManifest, repair, verify
from csplade.index.storage.documents import DocumentStore
from csplade.index.storage.manifest import write_checked
from csplade.index.storage.schema import checksum, identity_checksum
from csplade.ingest.ciff import read_ciff, write_ciff
from csplade.ingest.trec import read_run
from csplade.ingest.vectors import read_query_vectors, scan_vectors
from csplade.model.checkpoint.head import load_head
from csplade.model.checkpoint.layout import find
from csplade.model.checkpoint.manifest import Manifest
from csplade.service.auth import Keys
from csplade.service.settings import load

from .mutations import DEEP, fuzzed, spoiled, spoiled_json, spoiled_json_bytes

pytestmark = pytest.mark.attack

MOST_CHARACTERS = 1000  # of an error, with the path of a temporary folder in it


def read_or_reject(read: Callable[[], Any]) -> None:
    """Check that a reader reads the file, or rejects it in one line."""
    problem = None
    try:
        read()
    except CspladeError as error:
        problem = str(error)
    if problem is not None:
        assert "\n" not in problem
        assert 0 < len(problem) < MOST_CHARACTERS


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Makes fresh folders: two examples of one test share none."""
    numbers = itertools.count()
    base = tmp_path_factory.mktemp("spoiled")
    return lambda: base / str(next(numbers))


@pytest.fixture(scope="module")
def whole(text_index_of):
    """A small index of two shards with two segments each, and queries for it."""
    path = text_index_of(block_size=8, segment_blocks=2)
    rng = np.random.default_rng(3)
    size = IndexManifest.open(path).vocabulary_size
    rows = [(np.sort(rng.choice(size, 20, replace=False)), rng.integers(1, 9, 20)) for _ in "ab"]
    return SimpleNamespace(path=path, queries=ImpactBatch.join(rows))


def use(path: Path, queries: ImpactBatch) -> None:
    """Open an index and read all that can be read of it."""
    with Index.open(path, threads=1) as index:
        found = index.search(queries, 50)
        index.fetch(found.shards, found.ordinals)
        index.vectors(found.shards, found.ordinals)
        index.oracle(queries, 5)
        verify(index, sample=5)


def spoil_file(whole, folders, name: str, data) -> None:
    path = folders()
    shutil.copytree(whole.path, path)
    file = path / name
    file.write_bytes(data.draw(spoiled(file.read_bytes())))
    read_or_reject(lambda: use(path, whole.queries))
    read_or_reject(lambda: repair(path))
    shutil.rmtree(path)


@pytest.mark.parametrize(
    "name",
    [
        "index.json",
        "shard-0000/shard.json",
        "shard-0000/segment-000001.safetensors",
        "shard-0001/documents.sqlite",
    ],
)
def test_files_of_an_index(whole, folders, name):
    @fuzzed
    @given(st.data())
    def check(data):
        spoil_file(whole, folders, name, data)

    check()


@pytest.mark.parametrize("name", ["index.json", "shard-0000/shard.json"])
def test_manifests_with_right_checksums(whole, folders, name):
    """A stranger can compute a checksum, so it proves nothing."""
    content = json.loads((whole.path / name).read_text())
    del content["checksum"]

    @fuzzed
    @given(spoiled_json(content))
    def check(spoilt):
        path = folders()
        shutil.copytree(whole.path, path)
        try:
            checksum = write_checked(path / name, spoilt)
        except (UnicodeEncodeError, ValueError):
            shutil.rmtree(path)
            return
        if name == "index.json":
            for shard in path.glob("shard-*/shard.json"):
                values = json.loads(shard.read_text()) | {"index": checksum}
                del values["checksum"]
                write_checked(shard, values)
        read_or_reject(lambda: use(path, whole.queries))
        read_or_reject(lambda: repair(path))
        shutil.rmtree(path)

    check()


def test_segments_with_right_checksums(whole, folders):
    name = "segment-000000.safetensors"
    content = (whole.path / "shard-0000" / name).read_bytes()

    @fuzzed
    @given(spoiled(content))
    def check(spoilt):
        path = folders()
        shutil.copytree(whole.path, path)
        (path / "shard-0000" / name).write_bytes(spoilt)
        shard = path / "shard-0000" / "shard.json"
        values = json.loads(shard.read_text())
        del values["checksum"]
        values["segments"][0] |= {
            "bytes": len(spoilt),
            "sha256": hashlib.sha256(spoilt).hexdigest(),
        }
        write_checked(shard, values)
        read_or_reject(lambda: use(path, whole.queries))
        shutil.rmtree(path)

    check()


def test_a_store_alone(whole, folders):
    content = (whole.path / "shard-0000" / "documents.sqlite").read_bytes()

    def read(path):
        store = DocumentStore.open(path)
        try:
            store.problems()
            store.state()
            count = min(store.count(), 100)
            store.headers(0, count)
            store.deleted(), store.clipped(), store.sample()
            store.find(["d0"]), store.live_rows(["d1"])
            store.documents(range(count))
            store.vectors(range(count))
        finally:
            store.close()

    @fuzzed
    @given(spoiled(content))
    def check(spoilt):
        path = folders()
        path.mkdir()
        (path / "documents.sqlite").write_bytes(spoilt)
        read_or_reject(lambda: read(path))
        shutil.rmtree(path)

    check()


TABLES = {
    "documents": ["id", "title", "text", "metadata", "clipped", "deleted", "created"],
    "vectors": ["terms", "impacts"],
    "sample": ["terms", "weights"],
    "state": ["generation", "arrivals", "max_impact", "ordinals", "rows"],
}


def test_rows_with_right_checksums(whole, folders):
    """A store whose rows hold what their columns are not for."""
    columns = [(table, column) for table, names in TABLES.items() for column in names]
    values = st.sampled_from([b"", b"\xff" * 7, b"\0" * 8, "[" * DEEP, "x", -1, 2**62, 1.5])

    @fuzzed
    @given(st.lists(st.tuples(st.sampled_from(columns), values), min_size=1, max_size=3))
    def check(changes):
        path = folders()
        shutil.copytree(whole.path, path)
        store = sqlite3.connect(path / "shard-0000" / "documents.sqlite")
        for (table, column), value in changes:
            rest = "" if table == "state" else " WHERE rowid = 3"
            with contextlib.suppress(sqlite3.IntegrityError):
                store.execute(f"UPDATE {table} SET {column} = ?{rest}", (value,))
        sign(store)
        store.commit()
        store.close()
        read_or_reject(lambda: use(path, whole.queries))
        read_or_reject(lambda: repair(path))
        shutil.rmtree(path)

    check()


def sign(store: sqlite3.Connection) -> None:
    """Set the checksums of all rows to those of their content."""
    for ordinal, id, created, deleted, *content in store.execute(
        "SELECT ordinal, id, created, deleted, title, text, metadata FROM documents"
    ).fetchall():
        sums = identity_checksum(ordinal, id, created, deleted), checksum(ordinal, *content)
        store.execute(
            "UPDATE documents SET id_checksum = ?, checksum = ? WHERE ordinal = ?", (*sums, ordinal)
        )
    for ordinal, *content in store.execute(
        "SELECT ordinal, terms, impacts FROM vectors"
    ).fetchall():
        store.execute(
            "UPDATE vectors SET checksum = ? WHERE ordinal = ?",
            (checksum(ordinal, *content), ordinal),
        )


CORPUS = (
    b'{"_id": "d1", "title": "Tea", "text": "leaves", "year": 3, "tags": ["a", {"b": null}]}\n'
    b'{"id": 7, "contents": "coffee"}\n'
)
VECTORS = (
    b'{"id": "a", "vector": {"3": 0.5, "17": 2}}\n'
    b'{"id": "b", "text": "x", "indices": [1, 2], "values": [0.25, 4]}\n'
)
TOPICS = b"q1\tred red river\nq2\tblue\n"
RUN = b"q1 Q0 d1 1 12.5 tag\nq1 Q0 d2 2 inf tag\nq2 Q0 d1 1 3 tag\n"
KEYS = b"a-key search write\n# a comment\nanother\tadmin\n"


def of_both_ways(read: Callable[..., Any]) -> Callable[[Path], None]:
    """Read a file twice: bad lines raised, and bad lines passed over."""

    def both(path: Path) -> None:
        read_or_reject(lambda: list(read(path)))
        read_or_reject(lambda: list(read(path, on_bad=lambda error: None)))

    return both


@pytest.mark.parametrize(
    ("content", "read", "name"),
    [
        (CORPUS, of_both_ways(read_corpus), "corpus.jsonl"),
        (VECTORS, scan_vectors, "vectors.jsonl"),
        (VECTORS, read_query_vectors, "queries.jsonl"),
        (TOPICS, read_query_vectors, "queries.tsv"),
        (RUN, read_run, "run.txt"),
        (KEYS, Keys, "keys"),
    ],
    ids=["jsonl", "vectors", "query vectors", "topics", "trec", "keys"],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_files_of_lines(tmp_path, content, read, name, packed):
    import gzip

    whole = gzip.compress(content) if packed else content
    path = tmp_path / name

    @fuzzed
    @given(spoiled(whole))
    def check(spoilt):
        path.write_bytes(spoilt)
        read_or_reject(lambda: read(path))

    check()


@pytest.mark.parametrize("content", [CORPUS, VECTORS], ids=["jsonl", "vectors"])
def test_lines_of_json(tmp_path, content):
    """Lines that are JSON, with values that their reader does not expect."""
    path = tmp_path / "lines.jsonl"
    lines = [json.loads(line) for line in content.splitlines()]

    @fuzzed
    @given(st.tuples(*map(spoiled_json_bytes, lines)))
    def check(spoilt):
        path.write_bytes(b"\n".join(spoilt))
        of_both_ways(read_corpus)(path)
        read_or_reject(lambda: scan_vectors(path))
        read_or_reject(lambda: read_query_vectors(path))

    check()


def test_ciff(tmp_path):
    path = tmp_path / "index.ciff"
    impacts = ImpactBatch.join([([0, 2], [3, 4]), ([1], [9]), ([], [])])
    ids = ["a", "b", "c"]
    write_ciff(path, lambda stage: [(ids, impacts)], lambda term: f"t{term}", "three documents")

    @fuzzed
    @given(spoiled(path.read_bytes()))
    def check(spoilt):
        path.write_bytes(spoilt)
        read_or_reject(lambda: list(read_ciff(path)))

    check()


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_collection(beir_folder, name):
    file = beir_folder() / name

    def read():
        dataset = load_dataset(file.parents[len(Path(name).parts) - 1])
        list(read_corpus(dataset.corpus))

    @fuzzed
    @given(spoiled(file.read_bytes()))
    def check(spoilt):
        file.write_bytes(spoilt)
        read_or_reject(read)

    check()


def test_settings(tmp_path):
    path = tmp_path / "settings.yaml"
    deployed = Path(__file__).parents[2] / "deploy" / "csplade.yaml"
    tree = yaml.safe_load(deployed.read_text())

    @fuzzed
    @given(spoiled_json(tree).map(json.dumps).map(str.encode) | spoiled(deployed.read_bytes()))
    def check(spoilt):
        path.write_bytes(spoilt)
        read_or_reject(lambda: load(path))

    check()


def test_manifest_of_a_model(tiny_model, folders):
    tree = json.loads((tiny_model / "csplade.json").read_text())

    @fuzzed
    @given(spoiled_json_bytes(tree))
    def check(spoilt):
        path = folders()
        path.mkdir()
        (path / "csplade.json").write_bytes(spoilt)
        read_or_reject(lambda: Manifest.load(path).fingerprint)
        shutil.rmtree(path)

    check()


def test_header_of_a_safetensors_file(tiny_model, folders):
    content = (tiny_model / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")

    def read(path):
        checkpoint = find(path)
        checkpoint.parameters()

    @fuzzed
    @given(spoiled(content[:header]))
    def check(spoilt):
        path = folders()
        path.mkdir()
        shutil.copy(tiny_model / "config.json", path)
        (path / "model.safetensors").write_bytes(spoilt + content[header:])
        read_or_reject(lambda: read(path))
        (path / "head.safetensors").write_bytes(spoilt)
        read_or_reject(lambda: load_head(path, 600))
        shutil.rmtree(path)

    check()
