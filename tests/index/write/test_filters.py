"""Filters while documents are written: every search sees the columns of its own snapshot."""

import numpy as np
import pytest

from csplade.core.document import Document
from csplade.core.filters import Filter
from csplade.index import Index, IndexWriter, Upsert, declare_field
from csplade.index.read import filter as filter_masks

from .. import helpers
from ..helpers import assert_same_hits

FIELDS = {"number": "integer", "tags": "keyword"}
FILTERS = [
    Filter.parse({"must": [{"field": "number", "range": {"lt": 30}}]}),
    Filter.parse({"must_not": [{"field": "tags", "match": {"any": ["new"]}}]}),
    Filter.parse(
        {"should": [{"has_id": ["id-1", "id-70"]}, {"field": "tags", "match": {"any": ["b"]}}]}
    ),
]


def holds(filter, id, metadata):
    """The three filters, written out."""
    tags, number = metadata.get("tags", []), metadata.get("number")
    tags = [tags] if isinstance(tags, str) else tags
    return [
        number is not None and number < 30,
        "new" not in tags,
        id in ("id-1", "id-70") or "b" in tags,
    ][FILTERS.index(filter)]


def check(index, queries, known):
    for filter in FILTERS:
        truth = index.oracle(queries, 1000, filter)
        for _ in range(3):  # evaluated, from the cache, perhaps rare
            assert_same_hits(index.search(queries, 1000, index.mask(filter)), truth)
            index.snapshot.filters.settle()
        expected = {id for id, metadata in known.items() if holds(filter, id, metadata)}
        mask = index.mask(filter)
        assert {one.document.id for one in index.scroll(limit=1000, mask=mask)} == expected
        assert index.count(mask) == len(expected)
        ids = index.ids(truth.row(0)[0], truth.row(0)[1])
        assert set(ids) <= expected


@pytest.mark.parametrize("rare_share", [filter_masks.RARE_SHARE, 1.0])
@pytest.mark.parametrize("on_torch", [False, True])
def test_filters_follow_every_write(tmp_path, monkeypatch, on_torch, rare_share):
    monkeypatch.setattr(filter_masks, "RARE_SHARE", rare_share)
    monkeypatch.setattr(filter_masks, "RARE_FROM", 1)
    rng = np.random.default_rng(11)
    path = helpers.make_index(
        tmp_path / "index", helpers.random_vectors(rng, 60), shards=2, block_size=7, fields=FIELDS
    )
    known = {one.id: one.metadata for one in helpers.documents(0, 60)}
    queries = helpers.random_queries(rng, 2)
    with IndexWriter.open(path, threads=1) as writer:
        if on_torch:
            writer.index.to("cpu")
        check(writer.index, queries, known)
        old = writer.index.snapshot
        before = old.search(queries, 1000, old.mask(FILTERS[0]))
        for step in range(6):
            vectors = helpers.random_vectors(rng, 20)
            items = []
            for i, number in enumerate(rng.choice(90, 20, replace=False).tolist()):
                metadata = [{}, {"number": number}, {"tags": ["new", "b"]}, {"tags": "b"}][i % 4]
                document = Document(f"id-{number}", f"{step}", "", metadata)
                items.append(Upsert(document, vectors.row(i)))
                known[f"id-{number}"] = metadata
            assert all(result.error is None for result in writer.upsert(items))
            gone = [f"id-{number}" for number in rng.choice(90, 5, replace=False).tolist()]
            writer.delete(gone)
            for id in gone:
                known.pop(id, None)
            if step % 2:
                writer.compact()
            check(writer.index, queries, known)
        again = old.search(queries, 1000, old.mask(FILTERS[0]))
        helpers.assert_same(again, before)
    with Index.open(path, threads=1) as index:
        check(index, queries, known)


def test_a_value_of_another_type_fails_alone(tmp_path):
    rng = np.random.default_rng(3)
    vectors = helpers.random_vectors(rng, 3)
    path = helpers.make_index(tmp_path / "index", vectors, fields=FIELDS)
    with IndexWriter.open(path, threads=1) as writer:
        good, bad = (
            Upsert(Document(f"new-{number}", "text", "", {"number": number}), vectors.row(0))
            for number in (7, "7")
        )
        first, second = writer.upsert([good, bad])
        assert first.status == "created"
        assert second.status == "failed"
        assert "document 'new-7': field number: '7' is not integer" in str(second.error)
        assert writer.index.count(writer.index.mask(FILTERS[0])) == 4


def test_changed_metadata_alone_moves_a_document_between_filters(tmp_path):
    rng = np.random.default_rng(3)
    path = helpers.make_index(tmp_path / "index", helpers.random_vectors(rng, 3), fields=FIELDS)
    with IndexWriter.open(path, threads=1) as writer:
        (stored,) = writer.index.get(["id-1"])
        document = stored.document
        changed = Document(document.id, document.text, document.title, {"number": 99})
        (result,) = writer.upsert([Upsert(changed)])
        assert result.status == "updated"
        mask = writer.index.mask(FILTERS[0])
        assert {one.document.id for one in writer.index.scroll(mask=mask)} == {"id-0", "id-2"}


def test_fields_declared_later_know_what_was_written(tmp_path):
    rng = np.random.default_rng(3)
    vectors = helpers.random_vectors(rng, 3)
    path = helpers.make_index(tmp_path / "index", vectors)
    with IndexWriter.open(path, threads=1) as writer:
        writer.upsert([Upsert(Document("new", "text", "", {"number": 5}), vectors.row(0))])
        writer.delete(["id-0"])
    declare_field(path, "number", "integer")
    with Index.open(path, threads=1) as index:
        found = index.scroll(mask=index.mask(FILTERS[0]))
        assert [one.document.id for one in found] == ["id-1", "id-2", "new"]
