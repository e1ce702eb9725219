"""``csplade documents`` against a service that is open for writing."""

import json
import re
import shutil

import pytest

from csplade.service.grpc.server import running


@pytest.fixture
def target(small_index, settings, tmp_path):
    """The address of a service of the small corpus, open for writing."""
    copy = tmp_path / "index"
    shutil.copytree(small_index, copy)
    chosen = {"writable": True, "model__device": "cpu", "model__threads": 1}
    with running(settings(copy, scoring__threads=1, **chosen)) as server:
        yield server.address


@pytest.fixture
def documents(cli, target):
    return lambda command, *arguments: cli("documents", command, *arguments, "--target", target)


def test_a_corpus_is_upserted_and_again_unchanged(documents, lines):
    corpus = lines(
        "c.jsonl",
        {"_id": "d1", "text": "the river and the stone"},
        {"_id": "n1", "title": "Tea", "text": "leaves in hot water", "year": 2001},
        {"_id": "n2", "text": "birds sing"},
    )
    outcome = documents("upsert", corpus, "--batch", 2)
    assert (outcome.code, outcome.out) == (0, "1 updated, 2 created; generation 3\n")
    assert "documents 3/3" in outcome.err
    assert documents("upsert", corpus).out == "3 unchanged; generation 3\n"
    assert documents("count").out == "302\n"


def test_documents_are_printed_as_lines_that_can_be_read_again(documents, lines, tmp_path):
    first = lines("a.jsonl", {"_id": "n1", "title": "Tea", "text": "hot water", "year": 2001})
    documents("upsert", first)
    outcome = documents("get", "n1", "none", "--with-version", "--with-vector")
    assert outcome.code == 1
    assert "none: no such document" in outcome.err
    found = json.loads(outcome.out)
    vector = found.pop("vector")
    assert found == {
        "_id": "n1", "title": "Tea", "text": "hot water", "metadata": {"year": 2001}, "version": 2
    }  # fmt: skip
    assert vector["indices"] == sorted(vector["indices"])
    assert len(vector["indices"]) == len(vector["values"]) > 0

    for more in ((), ("--with-vector",)):
        shown = documents("scroll", "--page", 7, *more).out
        assert len(shown.splitlines()) == 301
        copy = tmp_path / "copy.jsonl"
        copy.write_text(shown)
        again = documents("upsert", copy, *(("--vectors",) if more else ()))
        # The empty texts of the small corpus cannot be encoded again, but need not be.
        assert again.out == "301 unchanged; generation 2\n"


def test_ready_vectors_are_upserted(documents, lines):
    vectors = lines(
        "v.jsonl",
        {"id": "v1", "contents": "a", "vector": {"indices": [3, 5], "values": [1.5, 0.5]}},
        {"id": "v2", "contents": "b", "vector": {"7": 1.0}},
    )
    outcome = documents("upsert", vectors, "--vectors", "--terms", "ids")
    assert outcome.out == "2 created; generation 2\n"
    found = json.loads(documents("get", "v2", "--with-vector").out)
    assert found["vector"]["indices"] == [7]
    text = lines("t.jsonl", {"id": "v3", "contents": "b", "vector": {"river": 1.0}})
    outcome = documents("upsert", text, "--vectors", "--terms", "ids")
    assert outcome.code == 1
    assert "term 'river' is a token string, the service has integer ids" in outcome.err


def test_documents_are_deleted(documents):
    outcome = documents("delete", "d1", "none")
    assert (outcome.code, outcome.out) == (0, "1 deleted, 1 not found; generation 2\n")
    outcome = documents("delete", "d2", "--if-version", 7)
    assert outcome.code == 1
    assert re.search(r"failed: ABORTED: document d2: .*version", outcome.err)
    assert documents("count").out == "299\n"


def test_ids_or_a_filter_are_deleted(documents):
    for arguments in ((), ("d1", "--filter", "{}")):
        outcome = documents("delete", *arguments)
        assert outcome.code == 2
        assert "give ids or --filter" in outcome.err
    outcome = documents("count", "--filter", "{")
    assert outcome.code == 2
    assert "--filter: is not JSON" in outcome.err
    wanted = json.dumps({"must": [{"has_id": ["d1", "d2", "none"]}]})
    assert documents("count", "--filter", wanted).out == "2\n"
    shown = documents("scroll", "--filter", wanted).out.splitlines()
    assert [json.loads(line)["_id"] for line in shown] == ["d1", "d2"]
    assert documents("delete", "--filter", wanted).out == "2 deleted\n"
    assert documents("count").out == "298\n"


def test_a_file_is_checked_before_anything_is_sent(fails, target, lines, documents):
    bad = lines("bad.jsonl", {"_id": "n1", "text": "a"}, {"_id": "n2"})
    said = fails("documents", "upsert", bad, "--target", target)
    assert said.startswith(f"{bad}:2: 'text' or 'contents' is needed")
    assert documents("count").out == "300\n"


def test_a_service_that_is_not_there_is_one_line(fails):
    said = fails("documents", "count", "--target", "127.0.0.1:1")
    assert said.startswith("UNAVAILABLE: ")
