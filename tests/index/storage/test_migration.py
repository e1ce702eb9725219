"""Directories of store version 2 are read as they are, and migrated when they are written to."""

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from csplade.core.document import Document
from csplade.core.errors import CorruptError
from csplade.index import Index, IndexBuilder, IndexWriter, Upsert, verify
from csplade.index.storage.schema import MIGRATION

from .. import helpers
from .version_2 import downgrade


def version(path, shard):
    with sqlite3.connect(path / f"shard-{shard:04d}" / "documents.sqlite") as store:
        found = store.execute("PRAGMA user_version").fetchone()[0]
    store.close()
    return found


def answers(index):
    queries = helpers.random_queries(np.random.default_rng(1), 4)
    now = index.snapshot
    found = now.search(queries, 100)
    helpers.assert_same_hits(found, now.oracle(queries, 100))
    return found


@pytest.fixture
def old(collection, tmp_path):
    path = Path(shutil.copytree(collection[0], tmp_path / "index"))
    helpers.delete(path, 1, [3, 7, 150])
    with Index.open(path, threads=1) as index:
        truth = answers(index)
    downgrade(path)
    return path, truth


def test_version_2_is_read_as_it_is(old):
    path, truth = old
    with Index.open(path, threads=1) as index:
        helpers.assert_same_hits(answers(index), truth)
        assert verify(index, 20).ok
        assert (index.generation, index.count()) == (1, 397)
        assert index.get(["id-7", "id-8"])[0] is None
        assert index.scroll(limit=1)[0].version == 1
    assert version(path, 0) == version(path, 1) == 2


def test_opening_for_writing_migrates(old):
    path, truth = old
    with IndexWriter.open(path, threads=1) as writer:
        helpers.assert_same_hits(answers(writer.index), truth)
        (result,) = writer.upsert([Upsert(Document("new", "x"), ([1], [2.0]))])
        assert (result.status, result.version) == ("created", 2)
    assert version(path, 0) == version(path, 1) == 3
    with Index.open(path, threads=1) as index:
        assert verify(index, 20).ok
        assert index.count() == 398
        (new,) = index.get(["new"])
        assert (new.version, new.arrival) == (2, 400)


def test_a_migration_that_is_cut_off_leaves_a_store_that_is_read(old, monkeypatch):
    path, truth = old
    monkeypatch.setattr(
        "csplade.index.storage.schema.MIGRATION", MIGRATION.replace("DROP TABLE", "DROP NOTHING")
    )
    with pytest.raises(CorruptError, match="syntax error"):
        IndexWriter.open(path, threads=1)
    assert version(path, 0) == version(path, 1) == 2
    with Index.open(path, threads=1) as index:
        helpers.assert_same_hits(answers(index), truth)
    monkeypatch.undo()
    IndexWriter.open(path, threads=1).close()
    assert version(path, 0) == version(path, 1) == 3


def test_one_store_migrated_and_one_not_are_read_together(old):
    path, truth = old
    from csplade.index.storage.writable import WritableStore

    WritableStore.open(path / "shard-0001").close()
    assert (version(path, 0), version(path, 1)) == (2, 3)
    with Index.open(path, threads=1) as index:
        helpers.assert_same_hits(answers(index), truth)


def test_an_unfinished_build_of_version_2_goes_on(tmp_path):
    path = tmp_path / "index"
    vectors = helpers.random_vectors(np.random.default_rng(0), 60)
    whole = helpers.make_index(tmp_path / "whole", vectors, shards=2)
    helpers.make_index(path, vectors.take(np.arange(30)), shards=2)
    downgrade(path)
    (path / "index.json").rename(path / "building.json")
    with IndexBuilder.resume(path) as builder:
        assert builder.documents == 30
        builder.add(helpers.documents(30, 60), vectors.take(np.arange(30, 60)))
        builder.finish()
    with Index.open(path, threads=1) as index, Index.open(whole, threads=1) as other:
        helpers.assert_same_hits(answers(index), answers(other))
