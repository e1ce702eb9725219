"""Fields and filters on the command line."""

import json

import pytest

from csplade.index import IndexManifest
from csplade.ingest.trec import read_run

BOOKS = [
    {"id": f"b{i}", "year": 2000 + i, "tags": ["a", "b"][: i % 3], "vector": {"0": 1.0 + i}}
    for i in range(9)
]
RECENT = json.dumps({"must": [{"field": "year", "range": {"gte": 2005}}]})


def build(cli, lines, out, *more, content=BOOKS):
    command = ("index", "build", "--vectors", lines("books.jsonl", *content), "--out", out)
    return cli(*command, "--field", "year:integer", "--field", "tags:keyword", *more)


@pytest.fixture
def books(cli, lines, tmp_path):
    assert build(cli, lines, tmp_path / "books").code == 0
    return tmp_path / "books"


def test_declared_fields_are_shown(cli, books):
    assert IndexManifest.open(books).fields == {"year": "integer", "tags": "keyword"}
    assert "year:integer, tags:keyword" in cli("index", "info", books).out
    assert json.loads(cli("index", "info", books, "--json").out)["fields"] == {
        "year": "integer",
        "tags": "keyword",
    }


def test_bulk_searches_are_filtered_paged_and_cut(cli, lines, books, tmp_path):
    queries = lines("q.jsonl", {"id": "q", "vector": {"0": 1.0}})

    def ranking(*options):
        run = tmp_path / "run.trec"
        outcome = cli("search", books, "--vectors", queries, "--output", run, *options)
        assert outcome.code == 0, outcome
        found = read_run(run)
        return found.rankings.get("q", []), found.scores.get("q", [])

    whole, scores = ranking()
    assert whole == [f"b{i}" for i in reversed(range(9))]
    assert ranking("--filter", RECENT)[0] == ["b8", "b7", "b6", "b5"]
    assert ranking("--filter", RECENT, "--offset", 1, "-k", 2)[0] == ["b7", "b6"]
    assert ranking("--score-threshold", scores[2])[0] == ["b8", "b7", "b6"]
    tagged = '{"must": [{"field": "tags", "match": {"any": ["b"]}}]}'
    assert ranking("--filter", tagged)[0] == ["b8", "b5", "b2"]


def test_fields_are_declared_and_dropped_later(cli, fails, books):
    told = cli("index", "declare", books, "tags:none", "id2:bool")
    assert told.out == f"{books}: tags is dropped\n{books}: id2 is declared as bool\n"
    assert IndexManifest.open(books).fields == {"year": "integer", "id2": "bool"}
    message = fails("index", "declare", books, "tags:integer")
    assert "document 'b1': field tags: 'a' is not integer; allowed is" in message
    assert "declared as integer already; drop it" in fails("index", "declare", books, "year:bool")
    assert "field 'x': is not declared" in fails("index", "declare", books, "x:none")
    assert cli("index", "declare", books, "year").code == 2
    assert IndexManifest.open(books).fields == {"year": "integer", "id2": "bool"}


def test_a_text_is_filtered_and_shows_stored_vectors(cli, small_index):
    ids = '{"must": [{"has_id": ["d3", "d4"]}]}'
    outcome = cli("search", small_index, "tea", "--json", "--with-vector", "--filter", ids)
    hits = json.loads(outcome.out)["hits"]
    assert {hit["id"] for hit in hits} <= {"d3", "d4"}
    assert hits
    assert all(hit["vector"] for hit in hits)
    assert "2 of 2 matching documents" in cli("search", small_index, "tea", "--filter", ids).out


def test_wrong_values_are_named_by_line_or_skipped(cli, fails, lines, tmp_path):
    content = [*BOOKS[:2], {"id": "x", "year": "2000", "vector": {"0": 1.0}}]
    command = ("index", "build", "--vectors", lines("bad.jsonl", *content))
    fields = ("--field", "year:integer")
    message = fails(*command, "--out", tmp_path / "a", *fields)
    assert "bad.jsonl:3: document 'x': field year: '2000' is not integer; allowed is" in message
    built = cli(*command, "--out", tmp_path / "b", *fields, "--skip-bad")
    assert built.code == 0
    assert "1 bad lines were skipped" in built.err
    assert IndexManifest.open(tmp_path / "b").documents == 2


def test_a_build_resumes_with_the_same_fields_only(cli, fails, killed, lines, tmp_path):
    out, path = tmp_path / "books", lines("books.jsonl", *BOOKS)
    command = ("index", "build", "--vectors", path, "--out", out)
    killed("csplade.index.write.build:IndexBuilder.finish", 1, *command, "--field", "year:integer")
    assert "started with fields {'year': 'integer'}" in fails(*command, "--resume")
    assert cli(*command, "--resume", "--field", "year:integer").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--filter", "{}", "--offset", "9991"), "--offset: 9991 and -k 10 reach 10001"),
        (("--filter", "{"), "--filter: is not JSON"),
        (("--score-threshold", "nan"), "'--score-threshold': nan is out of range"),
        (("--with-vector",), "--with-vector: needs --json"),
    ],
)
def test_usage_errors(cli, books, arguments, message):
    outcome = cli("search", books, "tea", *arguments)
    assert outcome.code == 2
    assert message in outcome.err


def test_filters_that_do_not_fit_the_index_fail_before_a_model_loads(fails, books):
    for filter, message in (
        ('{"must": [{"field": "color", "exists": true}]}', "field 'color' is not declared"),
        ('{"must": [{"field": "year", "match": {"any": ["x"]}}]}', "'x' is not integer"),
        ('{"any": []}', "filter: key 'any' is unknown"),
    ):
        assert message in fails("search", books, "tea", "--filter", filter)


@pytest.mark.parametrize("field", ["year", "year:int", ":bool"])
def test_fields_are_name_and_type(cli, lines, tmp_path, field):
    path = lines("books.jsonl", *BOOKS)
    outcome = cli("index", "build", "--vectors", path, "--out", tmp_path / "x", "--field", field)
    assert outcome.code == 2
    assert not (tmp_path / "x").exists()
