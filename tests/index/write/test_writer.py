import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from csplade.core.document import Document
from csplade.core.errors import (
    CorruptError,
    InputError,
    OverloadedError,
    UnavailableError,
    VectorNeededError,
    VersionConflictError,
)
from csplade.core.vectors import ImpactBatch
from csplade.index import (
    BuildOptions,
    Index,
    IndexBuilder,
    IndexManifest,
    IndexWriter,
    Mask,
    Upsert,
    describe,
    verify,
)
from csplade.index.storage.manifest import ShardManifest
from csplade.index.write import background, compaction
from csplade.index.write import writer as writing

from .. import helpers

VECTOR = (np.array([3, 9], np.int32), np.array([1.0, 0.5], np.float32))


@pytest.fixture
def path(collection, tmp_path):
    return Path(shutil.copytree(collection[0], tmp_path / "index"))


@pytest.fixture
def writer(path):
    with IndexWriter.open(path, threads=1) as opened:
        yield opened


def document(id, text="text", **metadata):
    return Document(id, text, "", metadata)


def statuses(results):
    return [one.status for one in results]


def query(*terms):
    return ImpactBatch.join([(np.array(terms, np.int32), np.ones(len(terms), np.int32))])


def test_a_write_is_visible_and_on_the_disk_when_it_returns(writer, path):
    (result,) = writer.upsert([Upsert(document("new", n=1), VECTOR)])
    assert (result.status, result.version, result.error) == ("created", 2, None)
    assert writer.index.generation == 2
    (stored,) = writer.index.get(["new"], with_vector=True)
    assert stored.document == document("new", n=1)
    assert (stored.version, stored.arrival) == (2, 400)
    np.testing.assert_array_equal(stored.terms, VECTOR[0])
    np.testing.assert_allclose(stored.weights, VECTOR[1])
    with Index.open(path, threads=1) as index:  # as after a crash: nothing was closed
        assert index.generation == 2
        assert index.get(["new"])[0].document == document("new", n=1)
        helpers.assert_same_hits(index.search(query(3), 500), writer.index.search(query(3), 500))


def test_the_same_content_writes_nothing(writer):
    item = Upsert(document("a", n=1, m=[1, {"b": None}]), VECTOR)
    assert statuses(writer.upsert([item])) == ["created"]
    turned = Upsert(document("a", m=[1, {"b": None}], n=1), VECTOR)
    again = writer.upsert([item, turned])
    assert [(one.status, one.version) for one in again] == [("unchanged", 2)] * 2
    assert writer.index.generation == 2
    for other in (
        Upsert(document("a", "other", n=1, m=[1, {"b": None}]), VECTOR),
        Upsert(document("a", "other", n=True, m=[1, {"b": None}]), VECTOR),
        Upsert(document("a", "other", n=True, m=[1, {"b": None}]), (VECTOR[0], VECTOR[1] * 2)),
    ):
        assert statuses(writer.upsert([other])) == ["updated"]


def test_changed_metadata_keeps_the_vector(writer):
    writer.upsert([Upsert(document("a"), VECTOR)])
    assert writer.needs_vector([document("a", n=2), document("a", "b"), document("b")]) == [
        False,
        True,
        True,
    ]
    (result,) = writer.upsert([Upsert(document("a", n=2))])
    assert result.status == "updated"
    (stored,) = writer.index.get(["a"], with_vector=True)
    assert stored.document.metadata == {"n": 2}
    assert stored.terms.tolist() == VECTOR[0].tolist()
    for missing in (document("a", "another text"), document("b")):
        (result,) = writer.upsert([Upsert(missing)])
        assert result.status == "failed"
        assert isinstance(result.error, VectorNeededError)


def test_versions_are_compared(writer):
    (created,) = writer.upsert([Upsert(document("a"), VECTOR, if_version=0)])
    (again,) = writer.upsert([Upsert(document("a", "b"), VECTOR, if_version=0)])
    assert isinstance(again.error, VersionConflictError)
    assert (again.status, again.version, again.error.code) == ("failed", created.version, "ABORTED")
    (updated,) = writer.upsert([Upsert(document("a", "b"), VECTOR, if_version=created.version)])
    assert (updated.status, updated.version) == ("updated", created.version + 1)
    assert statuses(writer.delete(["a", "b"], if_version=created.version)) == ["failed"] * 2
    (deleted,) = writer.delete(["a"], if_version=updated.version)
    assert (deleted.status, deleted.version) == ("deleted", updated.version + 1)
    assert statuses(writer.delete(["a"])) == ["not_found"]
    assert statuses(writer.upsert([Upsert(document("a"), VECTOR, if_version=0)])) == ["created"]


def test_a_bad_item_fails_alone(writer):
    good = [Upsert(document(f"good-{i}"), VECTOR) for i in range(3)]
    bad = {
        "must be a non-empty string": Upsert(document(""), VECTOR),
        "document id 7 must be": Upsert(document(7), VECTOR),
        "not valid Unicode": Upsert(document("a", "\ud800"), VECTOR),
        "metadata is not JSON": Upsert(document("a", n={1}), VECTOR),
        "metadata is not": Upsert(document("a", n=float("nan")), VECTOR),
        r"term 200, the vocabulary has 200 \(0 to 199\)": Upsert(document("a"), ([200], [1.0])),
        "must be finite and > 0": Upsert(document("a"), ([3], [float("nan")])),
        "term 3 is there twice": Upsert(document("a"), ([3, 3], [1.0, 1.0])),
        "2 terms but 1 weights": Upsert(document("a"), ([3, 4], [1.0])),
        "vector: too many values": Upsert(document("a"), ([3], [1.0], [2.0])),
        "term 201, the": Upsert(document("a"), (np.array([3, 201], np.int32), VECTOR[1])),
        "weight of term 3 is -1.0": Upsert(document("a"), (VECTOR[0], -2 * VECTOR[1] + 1)),
        "if_version: -1 is out of range": Upsert(document("a"), VECTOR, if_version=-1),
    }
    items = [good[0], *bad.values(), *good[1:]]
    results = writer.upsert(items)
    assert statuses(results) == ["created", *["failed"] * len(bad), "created", "created"]
    for message, result in zip(bad, results[1:-2], strict=True):
        with pytest.raises(InputError, match=message):
            raise result.error
    assert statuses(writer.delete(["", "good-1"])) == ["failed", "deleted"]
    assert writer.index.generation == 3


def test_one_id_twice_is_applied_in_order(writer):
    results = writer.upsert([Upsert(document("a", f"text {i}"), VECTOR) for i in range(3)])
    assert [(one.status, one.version) for one in results] == [
        ("created", 2),
        ("updated", 3),
        ("updated", 4),
    ]
    assert writer.index.get(["a"])[0].document.text == "text 2"
    assert writer.index.count() == 401


def test_terms_in_any_order_and_empty_vectors(writer):
    items = [Upsert(document("a"), ([9, 3], [0.5, 1.0])), Upsert(document("b"), ([], []))]
    assert statuses(writer.upsert(items)) == ["created", "created"]
    a, b = writer.index.get(["a", "b"], with_vector=True)
    assert a.terms.tolist() == [3, 9]
    assert b.terms.tolist() == []


def test_threads_share_commits(writer):
    """While a commit is held up, what the other threads send is committed together."""
    entered, release = threading.Event(), threading.Event()
    commit, generations = writer._log.commit, []

    def held(changes):
        generations.append(changes.generation)
        entered.set()
        assert release.wait(30)
        commit(changes)

    writer._log.commit = held
    threads = [
        threading.Thread(target=lambda i=i: writer.upsert([Upsert(document(f"t-{i}"), VECTOR)]))
        for i in range(20)
    ]
    threads[0].start()
    assert entered.wait(30)
    for thread in threads[1:]:
        thread.start()
    while len(writer._queue) < 19:
        threading.Event().wait(0.001)
    release.set()
    for thread in threads:
        thread.join()
    assert generations == [2, 3]
    assert writer.index.count() == 420
    assert {one.version for one in writer.index.get([f"t-{i}" for i in range(1, 20)])} == {3}


def test_a_commit_takes_so_many_documents_and_bytes(writer, monkeypatch):
    monkeypatch.setattr(writing, "COMMIT_DOCUMENTS", 8)
    writer.upsert([Upsert(document(f"d-{i}"), VECTOR) for i in range(20)])
    assert writer.index.generation == 4
    monkeypatch.setattr(writing, "COMMIT_BYTES", 1000)
    writer.upsert([Upsert(document(f"e-{i}", "x" * 600), VECTOR) for i in range(3)])
    assert writer.index.generation == 7


def test_there_is_one_writer(writer, path):
    with pytest.raises(UnavailableError, match="open for writing elsewhere"):
        IndexWriter.open(path)


def test_a_closed_writer(path):
    writer = IndexWriter.open(path, threads=1)
    writer.close()
    writer.close()
    for call in (
        lambda: writer.upsert([Upsert(document("a"), VECTOR)]),
        lambda: writer.delete(["a"]),
        writer.compact,
    ):
        with pytest.raises(UnavailableError, match="the writer is closed"):
            call()


def test_deletions_pass_when_the_disk_is_nearly_full(writer, monkeypatch):
    monkeypatch.setattr(background.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    (result,) = writer.upsert([Upsert(document("a"), VECTOR)])
    assert isinstance(result.error, OverloadedError)
    assert "1,000,000 bytes free on the disk" in str(result.error)
    assert statuses(writer.delete(["id-3"])) == ["deleted"]


def test_deletions_pass_when_the_tail_is_full(writer, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compaction, "write_segment", full)
    results = writer.upsert([Upsert(document(f"d-{i}"), VECTOR) for i in range(3000)])
    # 2 shards, each with four segments of three blocks of 32 documents, then what came at once.
    assert statuses(results).index("failed") == 1024
    assert "wait to be written to a segment; allowed 384" in str(results[-1].error)
    assert statuses(writer.upsert([Upsert(document("d-3"), VECTOR)])) == ["unchanged"]
    assert statuses(writer.delete([f"d-{i}" for i in range(1000)])) == ["deleted"] * 1000
    with pytest.raises(UnavailableError, match=r"a segment cannot be written: .*No space"):
        writer.compact()
    monkeypatch.undo()
    writer.compact()
    assert statuses(writer.upsert([Upsert(document("a"), VECTOR)])) == ["created"]


def test_a_commit_that_fails_leaves_nothing_and_deletions_pass(writer, monkeypatch):
    """Both shards are written, the second one fails: what the first one has is undone."""
    insert, calls = writer._log.stores[0].insert, []

    def failing(rows):
        calls.append(len(rows))
        if rows:
            raise UnavailableError("no space left to write")
        insert(rows)

    monkeypatch.setattr(writer._log.stores[0], "insert", failing)
    call = writing.check_upserts([Upsert(document("a"), VECTOR)], writer.index.manifest)
    both = writing.check_deletes(["id-3"], None)
    for operation in both.operations:
        call.add(operation)
    results = writer._submit(call)
    assert statuses(results) == ["failed", "deleted"]
    assert calls == [1, 0]
    assert writer.index.get(["a", "id-3"]) == [None, None]
    monkeypatch.undo()
    assert statuses(writer.upsert([Upsert(document("a"), VECTOR)])) == ["created"]
    assert verify(writer.index, 10).ok


@pytest.mark.parametrize("searcher", ["numba", "torch"])
def test_a_snapshot_stays_what_it_was(path, searcher):
    queries = helpers.random_queries(np.random.default_rng(4), 5)
    with IndexWriter.open(path, threads=2) as writer:
        if searcher == "torch":
            writer.index.to("cpu")
        now = writer.index.snapshot
        truth, found = now.search(queries, 400), now.find(["id-0", "id-399"])
        writer.delete([f"id-{i}" for i in range(0, 400, 2)])
        writer.upsert([Upsert(document("id-399"), VECTOR)])
        writer.compact()
        assert writer.stats.garbage_rows == 201
        helpers.assert_same_hits(now.search(queries, 400), truth)
        helpers.assert_same_hits(truth, now.oracle(queries, 400))
        assert len(now.fetch(truth.shards, truth.ordinals)) == len(truth.shards)
        assert now.find(["id-0", "id-399"]) == found
        assert now.count() == 400
        del now
        writer.compact()
        assert writer.stats.garbage_rows == 0
        after = writer.index.snapshot
        helpers.assert_same_hits(after.search(queries, 400), after.oracle(queries, 400))
        assert after.count() == 200


def test_readers_of_other_processes_keep_what_they_read(path):
    """A reader holds a lock on the index; its rows and files go when it is closed."""
    queries = helpers.random_queries(np.random.default_rng(4), 5)
    with IndexWriter.open(path, threads=1) as writer:
        with Index.open(path, threads=1) as reader:
            truth = reader.search(queries, 400)
            writer.delete([f"id-{i}" for i in range(300)])
            writer.compact()
            assert writer.stats.garbage_rows == 300
            helpers.assert_same_hits(truth, reader.oracle(queries, 400))
            assert len(reader.fetch(truth.shards, truth.ordinals)) == len(truth.shards)
            assert verify(reader, 10).ok
        writer.compact()
        assert writer.stats.garbage_rows == 0
        held = [len(list(path.glob(f"shard-{i:04d}/segment*"))) for i in range(2)]
        assert held == [len(one.manifest.segments) for one in writer.index.shards.values()]


def test_disk_and_memory_of_deleted_documents_come_back(writer, path):
    def used():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

    writer.compact()
    before = used()
    many = [Upsert(document(f"d-{i}", "x" * 2000), VECTOR) for i in range(1500)]
    for first in range(0, 1500, 300):
        writer.upsert(many[first : first + 300])
        writer.compact()
    assert used() > before + 1500 * 2000
    writer.delete([one.document.id for one in many])
    writer.compact()
    assert writer.index.manifest.documents == 400
    assert used() < before + 200_000


def test_scroll_and_count_with_a_mask(writer):
    writer.delete(["id-4", "id-5"])
    writer.upsert([Upsert(document("id-6"), VECTOR)])
    now = writer.index.snapshot
    rng = np.random.default_rng(0)
    mask = Mask({n: rng.random(shard.documents) < 0.5 for n, shard in now.shards.items()})
    wanted = []
    for number, shard in now.shards.items():
        start = 0
        for one in shard.segments:
            kept = one.kept & mask.shards[number][start : start + len(one)]
            wanted += (one.ordinals[kept].astype(int) * 2 + number).tolist()
            start += len(one)
    found, after = [], -1
    while page := now.scroll(after, 7, mask):
        found += [one.arrival for one in page]
        after = page[-1].arrival
    assert found == sorted(wanted)
    assert now.count(mask) == len(wanted)
    with pytest.raises(InputError, match="limit: 0 is too small"):
        now.scroll(limit=0)
    short = replace(mask, shards={**mask.shards, 0: mask.shards[0][:-1]})
    with pytest.raises(InputError, match="mask: shard 0"):
        now.count(short)


def test_an_index_may_begin_empty(tmp_path):
    options = BuildOptions(200, shards=2, document_scale=0.02)
    with IndexBuilder.create(tmp_path / "index", options) as builder:
        assert builder.finish().documents == 0
    with IndexWriter.open(tmp_path / "index", threads=2) as writer:
        nothing = writer.index.search(query(3), 10)
        assert (nothing.matched.tolist(), len(nothing.scores)) == ([0], 0)
        assert writer.index.scroll() == []
        writer.index.to("cpu")
        assert len(writer.index.search(query(3), 10).scores) == 0
        writer.upsert([Upsert(document("a"), VECTOR)])
        assert writer.index.search(query(3), 10).matched.tolist() == [1]
    with Index.open(tmp_path / "index") as index:
        assert verify(index).ok
        assert index.search(query(3), 10).matched.tolist() == [1]


@pytest.mark.parametrize("modifier", ["idf", "none"])
def test_statistics_follow_the_writes(tmp_path, modifier):
    vectors = helpers.random_vectors(np.random.default_rng(3), 120)
    path = helpers.make_index(tmp_path / "index", vectors, shards=2, query_modifier=modifier)
    with IndexWriter.open(path, threads=1) as writer:
        for step in range(4):
            assert writer.index.statistics.documents == writer.index.count()
            more = helpers.random_vectors(np.random.default_rng(step), 30)
            items = [Upsert(document(f"id-{3 * i}"), more.row(i)) for i in range(30)]
            writer.upsert(items)
            writer.delete([f"id-{i + 40 * step}" for i in range(7)])
        found = writer.index.statistics
        with Index.open(path, threads=1) as index:
            counted = index.statistics
        assert found.documents == counted.documents
        assert found.frequencies.tolist() == counted.frequencies.tolist()


def test_an_index_that_is_placed_while_it_is_written_searches_the_newest_snapshot(writer):
    queries = helpers.random_queries(np.random.default_rng(4), 5)
    placement = writer.index.place("cpu")
    writer.upsert([Upsert(document(f"id-{i}"), VECTOR) for i in range(0, 400, 3)])
    writer.compact()
    writer.index.load(placement)
    now = writer.index.snapshot
    helpers.assert_same_hits(now.search(queries, 400), now.oracle(queries, 400))
    writer.delete(["id-0", "id-1"])
    now = writer.index.snapshot
    assert now.tensors is not None
    helpers.assert_same_hits(now.search(queries, 400), now.oracle(queries, 400))


def test_an_index_that_is_being_built_is_named_at_once(tmp_path):
    builder = IndexBuilder.create(tmp_path / "index", BuildOptions(200))
    with pytest.raises(CorruptError, match="the build of this index is not finished"):
        Index.open(tmp_path / "index")
    builder.close()


def test_nothing_is_removed_while_the_disk_may_have_either_manifest(path, monkeypatch):
    """The manifest is replaced, then its directory cannot be synchronized: both may be there."""
    write = ShardManifest.write

    def failing(manifest, directory, checksum):
        write(manifest, directory, checksum)
        raise OSError(28, "No space left on device")

    with IndexWriter.open(path, threads=1) as writer:
        for i in range(40):
            writer.upsert([Upsert(document(f"d-{i}"), VECTOR)])
        monkeypatch.setattr(ShardManifest, "write", failing)
        with pytest.raises(UnavailableError, match="a segment cannot be written"):
            writer.compact()
        writer.delete([f"d-{i}" for i in range(20)])
        for i in range(40):
            writer.upsert([Upsert(document(f"e-{i}"), VECTOR)])
        truth = [one.document.id for one in writer.index.scroll(limit=1000)]
        copied = Path(shutil.copytree(path, path.parent / "copied"))  # as a crash would leave it
        monkeypatch.undo()
        writer.compact()
        assert writer.stats.garbage_rows == 0
    for one in (path, copied):
        with Index.open(one, threads=1) as index:
            assert [found.document.id for found in index.scroll(limit=1000)] == truth
            assert verify(index, 10).ok


def test_an_index_is_described_with_what_was_written_since(writer, path):
    assert describe(path) == IndexManifest.open(path)
    vector = np.array([7], np.int32), np.array([65_280 * helpers.SCALE], np.float32)
    writer.upsert([Upsert(document("new"), vector), Upsert(document("id-3"), VECTOR)])
    found, now = describe(path), writer.index.manifest
    assert (found.generation, found.documents, found.max_impact) == (2, 402, 65_280)
    assert [shard.deleted for shard in found.shards] == [shard.deleted for shard in now.shards]
    assert [shard.documents for shard in found.shards] == [one.documents for one in now.shards]
