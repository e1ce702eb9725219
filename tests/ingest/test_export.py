"""An index, exported and built again, has the same vectors and gives the same rankings."""

import json

import numpy as np
import pytest

from csplade.core.document import Document
from csplade.core.vectors import ImpactBatch, SparseBatch
from csplade.index import BuildOptions, Index, IndexBuilder, IndexWriter, Upsert
from csplade.ingest import export, transpose
from csplade.ingest.build import build_from_vectors
from csplade.ingest.ciff import read_ciff
from csplade.ingest.export import FORMATS, export_index

VOCABULARY = 90
DELETED = {2, 9, 12, 272}  # numbers of documents


@pytest.fixture
def built(tmp_path, monkeypatch):
    """An index of three shards: impacts above 255, documents without terms, documents that were
    deleted, and one that was written later.
    """
    monkeypatch.setattr(export, "CHUNK", 50)
    monkeypatch.setattr(transpose, "PART_POSTINGS", 500)
    monkeypatch.setattr(transpose, "PART_COLUMNS", 64)
    random = np.random.default_rng(3)
    rows, documents = [], []
    for number in range(280):
        terms = random.choice(VOCABULARY, random.integers(0, 30), replace=False)
        rows.append((terms, random.choice([1, 2, 200, 255, 256, 700, 65_280], len(terms))))
        metadata = {"n": number, "tags": ["é", None]} if number % 3 else {}
        documents.append(Document(f"d{number}", f"text {number}\n", "t" * (number % 2), metadata))
    path = tmp_path / "index"
    strings = [f"w{term:02}" for term in reversed(range(VOCABULARY))]
    options = BuildOptions(VOCABULARY, shards=3, document_scale=1.0, vocabulary=strings)
    with IndexBuilder.create(path, options) as builder:
        builder.add(documents, SparseBatch.from_rows(rows))
        builder.finish()
    late = Document("late", "written after the build", "", {"n": -1})
    terms, impacts = np.array([2, 5, 80]), np.array([300, 1, 7])
    with IndexWriter.open(path) as writer:
        writer.delete([f"d{number}" for number in DELETED])
        writer.upsert([Upsert(late, SparseBatch.from_rows([(terms, impacts)]).row(0))])
    live = [number for number in range(280) if number not in DELETED]
    return (
        path,
        [*(documents[number] for number in live), late],
        [*(rows[number] for number in live), (terms, impacts)],
    )


def vectors_of(index: Index) -> dict[str, dict[str, int]]:
    """Impacts by string of term, of each live document."""
    names = index.manifest.vocabulary or list(map(str, range(index.manifest.vocabulary_size)))
    found = {}
    for place in export._places(index.snapshot, "", None):
        for id, (terms, values) in zip(index.ids(*place), index.vectors(*place), strict=True):
            found[id] = {names[t]: v for t, v in zip(terms.tolist(), values.tolist(), strict=True)}
    return found


def rankings_of(index: Index, queries: list[dict[str, int]]) -> list[list[tuple[str, int]]]:
    """Ids and integer scores of each query's hits."""
    manifest = index.manifest
    names = manifest.vocabulary or list(map(str, range(manifest.vocabulary_size)))
    places = {name: term for term, name in enumerate(names)}
    rows = [sorted((places[name], impact) for name, impact in one.items()) for one in queries]
    batch = ImpactBatch.join([tuple(map(np.array, zip(*row, strict=True))) for row in rows])
    found = index.search(batch, 100)
    hits = list(zip(index.ids(found.shards, found.ordinals), found.scores.tolist(), strict=True))
    return [hits[found.indptr[i] : found.indptr[i + 1]] for i in range(len(queries))]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_again(built, tmp_path, suffix, named):
    path, documents, rows = built
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    out, again = tmp_path / f"x{suffix}", tmp_path / "again"
    steps = []
    with Index.open(path) as index:
        strings = index.manifest.vocabulary
        names = strings if named else list(map(str, range(VOCABULARY)))
        expected = {
            document.id: {
                names[t]: v for t, v in sorted(zip(terms.tolist(), values.tolist(), strict=True))
            }
            for document, (terms, values) in zip(documents, rows, strict=True)
        }
        count = export_index(
            index,
            out,
            FORMATS[suffix],
            strings.__getitem__ if named else None,
            lambda *step: steps.append(step),
        )
        assert count == len(documents)
        assert steps[-1] == ("documents", count, count)
        build_from_vectors(out, again, shards=2)
        with Index.open(again) as other:
            assert vectors_of(other) == expected
            queries = [vector for vector in expected.values() if vector][:40]
            queries = [{name: 1 + (7 * i) % 50 for i, name in enumerate(one)} for one in queries]
            ours = [{strings[names.index(name)]: v for name, v in one.items()} for one in queries]
            rankings = rankings_of(index, ours)
            assert rankings == rankings_of(other, queries)
            assert any(len(ranking) == 100 for ranking in rankings)
            if suffix != ".ciff":
                for place in export._places(other.snapshot, "", None):
                    for document in other.fetch(*place):
                        assert document == documents[list(expected).index(document.id)]


def test_json_lines_are_those_of_anserini(built, tmp_path):
    path, documents, _ = built
    with Index.open(path) as index:
        export_index(index, tmp_path / "x.jsonl", "jsonl", index.manifest.vocabulary.__getitem__)
        vectors = vectors_of(index)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [document.id for document in documents]
    assert lines[1] == {
        "id": "d1", "contents": "text 1\n", "title": "t", "vector": vectors["d1"],
        "metadata": {"n": 1, "tags": ["é", None]},
    }  # fmt: skip
    assert lines[0].keys() == {"id", "contents", "vector"}


def test_ciff_has_the_live_documents_in_order(built, tmp_path):
    path, documents, _ = built
    with Index.open(path) as index:
        export_index(index, tmp_path / "x.ciff", "ciff", index.manifest.vocabulary.__getitem__)
        vectors = vectors_of(index)
    found = [
        (one.document.id, dict(zip(one.terms, one.weights.tolist(), strict=True)))
        for one in read_ciff(tmp_path / "x.ciff")
    ]
    assert [id for id, _ in found] == [document.id for document in documents]
    assert dict(found) == vectors


@pytest.mark.parametrize("form", ["jsonl", "ciff", "parquet"])
def test_a_failure_leaves_nothing(built, tmp_path, form):
    path, *_ = built
    if form == "parquet":
        pytest.importorskip("pyarrow")

    def fail(stage, done, total):
        if stage == "documents" and done > 60:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with Index.open(path) as index, pytest.raises(KeyboardInterrupt):
        export_index(index, out, form, None, fail)
    assert not list(tmp_path.glob("out*"))
