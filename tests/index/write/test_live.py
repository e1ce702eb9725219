"""Any sequence of writes, compactions and restarts ranks like a dictionary of what is left."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from csplade.core.document import Document
from csplade.core.vectors import SparseBatch
from csplade.index import Index, IndexWriter, Upsert, verify
from csplade.index.write import background, compaction

from .. import helpers

NAMES = st.integers(0, 60)
SEEDS = st.integers(0, 2**32 - 1)


class Expected:
    """A document as the test knows it; a plain one has neither title nor metadata."""

    def __init__(self, text, vector, version, order, *, plain):
        self.text, self.vector, self.version, self.order = text, vector, version, order
        self.plain = plain


class LiveIndex(RuleBasedStateMachine):
    """One writer; what it must hold, by id; and its answers beside those of the dictionary."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="csplade-live-"))
        self.path = self.folder / "index"
        self.known, self.writes, self.held = {}, 0, None

    @initialize(
        seed=SEEDS,
        count=st.integers(1, 60),
        shards=st.integers(1, 3),
        block_size=st.sampled_from([1, 7, 32]),
        segment_blocks=st.sampled_from([1, 3]),
        levels=st.sampled_from([1, 255, 1000]),
    )
    def build(self, seed, count, shards, block_size, segment_blocks, levels):
        self.levels = levels
        vectors = helpers.random_vectors(np.random.default_rng(seed), count, levels=levels)
        helpers.make_index(
            self.path, vectors, shards=shards, block_size=block_size, segment_blocks=segment_blocks
        )
        for i, document in enumerate(helpers.documents(0, count)):
            self.known[document.id] = Expected(document.text, vectors.row(i), 1, i, plain=False)
        self.writes = count
        self.open()

    def open(self):
        self.writer = IndexWriter.open(self.path, threads=2)
        if self.on_torch:
            self.writer.index.to("cpu")

    @rule(seed=SEEDS, names=st.lists(NAMES, min_size=1, max_size=40), same_text=st.booleans())
    def upsert(self, seed, names, same_text):
        rng = np.random.default_rng(seed)
        vectors = helpers.random_vectors(rng, len(names), levels=self.levels)
        text = "always the same" if same_text else f"text {seed}"
        items = [
            Upsert(Document(f"id-{name}", text), vectors.row(i)) for i, name in enumerate(names)
        ]
        for item, result in zip(items, self.writer.upsert(items), strict=True):
            before = self.known.get(result.id)
            same = before is not None and self.same(before, item)
            assert result.error is None
            expected = "unchanged" if same else "created" if before is None else "updated"
            assert result.status == expected
            if same:
                assert result.version == before.version
                continue
            self.known[result.id] = Expected(
                text, item.vector, result.version, self.writes, plain=True
            )
            self.writes += 1

    def same(self, before, item):
        ours, theirs = (
            SparseBatch.join([one]).quantize(helpers.SCALE)[0].row(0)
            for one in (before.vector, item.vector)
        )
        unchanged = before.plain and before.text == item.document.text
        return unchanged and all(map(np.array_equal, ours, theirs))

    @rule(names=st.lists(NAMES, max_size=20))
    def delete(self, names):
        for result in self.writer.delete([f"id-{name}" for name in names]):
            there = self.known.pop(result.id, None) is not None
            assert result.status == ("deleted" if there else "not_found")

    @rule(name=NAMES, number=st.integers(0, 5))
    def update_metadata(self, name, number):
        id = f"id-{name}"
        before = self.known.get(id)
        text = "new" if before is None else before.text
        document = Document(id, text, self.title(id), {"number": number})
        (result,) = self.writer.upsert([Upsert(document)])
        if before is None:
            assert (result.status, type(result.error).__name__) == ("failed", "VectorNeededError")
        elif result.status != "failed":  # documents of the build have titles
            assert result.status in ("updated", "unchanged")
            if result.status == "updated":
                before.version, before.order = result.version, self.writes
                before.plain = False
                self.writes += 1

    def title(self, id):
        (stored,) = self.writer.index.get([id])
        return "" if stored is None else stored.document.title

    @rule()
    def compact(self):
        self.writer.compact()
        stats = self.writer.stats
        assert (stats.deleted, stats.tail_documents) == (0, 0)

    @precondition(lambda self: self.held is None)
    @rule()
    def hold_a_snapshot(self):
        snapshot = self.writer.index.snapshot
        self.held = snapshot, snapshot.search(self.queries(), 30)

    @precondition(lambda self: self.held is not None)
    @rule()
    def search_the_held_snapshot(self):
        snapshot, truth = self.held
        helpers.assert_same_hits(snapshot.search(self.queries(), 30), truth)
        helpers.assert_same_hits(truth, snapshot.oracle(self.queries(), 30))
        assert len(snapshot.fetch(truth.shards, truth.ordinals)) == len(truth.shards)
        self.held = None

    @rule()
    def reopen(self):
        self.held = None
        before = self.writer.index.generation
        self.writer.close()
        self.open()
        assert self.writer.index.generation == before

    @rule()
    def read_elsewhere(self):
        with Index.open(self.path, threads=1) as index:
            self.agrees(index.snapshot)

    def queries(self):
        return helpers.random_queries(np.random.default_rng(9), 3, levels=self.levels)

    @invariant()
    def agrees_now(self):
        self.agrees(self.writer.index.snapshot)

    def agrees(self, snapshot):
        queries = self.queries()
        found = snapshot.search(queries, 30)
        helpers.assert_same_hits(found, snapshot.oracle(queries, 30))
        documents = list(self.known.items())
        impacts, _ = SparseBatch.join([one.vector for _, one in documents]).quantize(helpers.SCALE)
        for q, (terms, values) in enumerate(queries):
            table = np.zeros(helpers.VOCABULARY, dtype=np.int64)
            table[terms] = values
            scores = [int((table[t] * v).sum()) for t, v in impacts]
            best = sorted(
                (-score, one.order, id)
                for score, (id, one) in zip(scores, documents, strict=True)
                if score
            )
            shards, ordinals, ranked = found.row(q)
            assert found.matched[q] == len(best)
            assert snapshot.ids(shards, ordinals) == [id for _, _, id in best[:30]]
            assert ranked.tolist() == [-score for score, _, _ in best[:30]]
        assert snapshot.count() == len(documents)
        page = snapshot.scroll(limit=1000)
        ordered = sorted(self.known.items(), key=lambda pair: pair[1].order)
        assert [one.document.id for one in page] == [id for id, _ in ordered]
        assert [one.version for one in page] == [one.version for _, one in ordered]

    def teardown(self):
        if hasattr(self, "writer"):
            self.held = None
            self.writer.close()
            with Index.open(self.path, threads=1) as index:
                self.agrees(index.snapshot)
                assert verify(index, 30).ok, verify(index, 30).problems
        shutil.rmtree(self.folder)


@pytest.mark.parametrize("searcher", ["numba", "torch"])
def test_any_sequence_of_writes(monkeypatch, searcher):
    monkeypatch.setattr(compaction, "DELETED_DOCUMENTS", 5)
    monkeypatch.setattr(background, "TAIL_SEGMENTS", 1000)  # segments of one document are not many
    machine = type("Machine", (LiveIndex,), {"on_torch": searcher == "torch"})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
