import json

import pytest

from csplade.core.corpus import read_corpus, read_records
from csplade.core.document import Document, parse_id
from csplade.core.errors import InputError


@pytest.fixture
def corpus(tmp_path):
    """Writes a corpus; strings go in as they are."""

    def write(*rows: dict | str) -> str:
        path = tmp_path / "corpus.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines))
        return path

    return write


def test_every_other_key_is_metadata(corpus):
    path = corpus(
        {"_id": "a", "title": "T", "text": "x", "year": 1, "metadata": {"id": "i", "text": "m"}},
        {"id": 7, "contents": "y", "title": None, "metadata": [1]},
        {"_id": "b", "id": 3, "text": ""},
    )
    assert list(read_corpus(path)) == [
        Document("a", "x", "T", {"id": "i", "text": "m", "year": 1}),
        Document("7", "y", "", {"metadata": [1]}),
        Document("b", "", "", {"id": 3}),
    ]
    assert [one.full_text for one in read_corpus(path)] == ["T x", "y", ""]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "'_id' or 'id' is needed, found 'text'"),
        ({"doc_id": "a", "text": "x"}, "'_id' or 'id' is needed, found 'doc_id', 'text'"),
        ({"_id": None, "text": "x"}, "_id: None must be a string"),
        ({"_id": "", "text": "x"}, "_id: '' must be a string that is not empty"),
        ({"_id": True, "text": "x"}, "_id: True must be a string"),
        ({"_id": 1.0, "text": "x"}, "_id: 1.0 must be a string"),
        ({"_id": "a b", "text": "x"}, "_id: 'a b' has white space .*; replace it"),
        ({"_id": "a\u00a0b", "text": "x"}, "has white space"),
        ({"_id": "a\u0007", "text": "x"}, "control character"),
        ({"_id": "a", "title": "t"}, "'text' or 'contents' is needed"),
        ({"_id": "a", "text": None}, "text: None must be a string"),
        ({"_id": "a", "text": ["x", "y"]}, r"text: \['x', 'y'\] must be a string"),
        ({"_id": "a", "contents": 3}, "contents: 3 must be a string"),
        ({"_id": "a", "text": "x", "contents": "y"}, "'text' and 'contents' are both there"),
        ({"_id": "a", "text": "x", "title": 3}, "title: 3 must be a string"),
        ('{"_id": "a", "text": "x", "year": NaN}', "NaN is not JSON"),
        ('{"_id": "a", "text": "x", "year": 1e999}', "metadata: has a number beyond float64"),
        ('{"_id": "a", "text": "x", "metadata": {"y": -1e999}}', "metadata: has a number beyond"),
        ({"_id": "a", "text": "x", "n": 1, "metadata": {"n": 2}}, "'n' is there twice, as 1 and"),
        ({"_id": "good", "text": "other"}, "id 'good' is on line 1 already, and the lines differ"),
    ],
)
def test_a_bad_line_is_named_and_may_be_skipped(corpus, row, message):
    path = corpus({"_id": "good", "text": "x"}, row, {"_id": "last", "text": "z"})
    with pytest.raises(InputError, match=rf"corpus\.jsonl:2: .*{message}"):
        list(read_corpus(path))
    bad = []
    assert [one.id for one in read_corpus(path, on_bad=bad.append)] == ["good", "last"]
    assert len(bad) == 1


def test_a_line_that_comes_again_exactly_alike_is_read_once(corpus):
    row = {"_id": "a", "text": "x", "n": {"b": 1}}
    assert len(list(read_corpus(corpus(row, row, {"_id": "b", "text": "x"}, row)))) == 2
    with pytest.raises(InputError, match=r"corpus\.jsonl:2: id 'a' is on line 1 already"):
        list(read_corpus(corpus(row, {**row, "n": {"b": 2}})))
    with pytest.raises(InputError, match=r"corpus\.jsonl:2: id '7' is on line 1 already"):
        list(read_corpus(corpus({"_id": 7, "text": "x"}, {"_id": "7", "text": "y"})))


def test_a_beir_folder_means_its_corpus(beir_folder):
    folder = beir_folder()
    assert [one.id for one in read_corpus(folder)] == ["d1", "d2", "d3"]


@pytest.mark.parametrize("name", ["queries.jsonl", "readme.md", "run.tsv.gz"])
def test_a_folder_of_documents_holds_json_lines_alone(tmp_path, name):
    (tmp_path / "docs00.json").write_text('{"id": "a", "contents": "x"}\n')
    (tmp_path / "docs01.jsonl").write_text('{"id": "b", "contents": "y"}\n')
    assert [one.document.id for one in read_records(tmp_path)] == ["a", "b"]
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=rf"{name}: is not a file of documents"):
        list(read_records(tmp_path))


def test_ids():
    assert [parse_id(value) for value in ("a", "ünï#3", 7, -1, "07")] == [
        "a", "ünï#3", "7", "-1", "07",
    ]  # fmt: skip
