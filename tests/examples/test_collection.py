"""The example collection keeps to its format and its judgments hold together."""

import csv
import re
from pathlib import Path

import pytest

from csplade.core.lines import read_jsonl

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def corpus():
    return [line for _, line in read_jsonl(EXAMPLES / "corpus.jsonl")]


@pytest.fixture(scope="module")
def queries():
    return [line for _, line in read_jsonl(EXAMPLES / "queries.jsonl")]


@pytest.fixture(scope="module")
def judgments():
    with open(EXAMPLES / "qrels" / "test.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert rows[0] == ["query-id", "corpus-id", "score"]
    return rows[1:]


def test_corpus_has_enough_short_passages_with_ids_of_their_own(corpus):
    assert len(corpus) >= 320
    assert len({passage["_id"] for passage in corpus}) == len(corpus)
    assert len({passage["text"] for passage in corpus}) == len(corpus)
    for passage in corpus:
        assert set(passage) == {"_id", "title", "text"}
        assert passage["title"].strip()
        words = len(passage["text"].split())
        assert 30 <= words <= 80, f"{passage['_id']} has {words} words"


def test_queries_are_enough_and_distinct(queries):
    assert len(queries) >= 64
    assert len({query["_id"] for query in queries}) == len(queries)
    assert len({query["text"].lower() for query in queries}) == len(queries)
    assert all(set(query) == {"_id", "text"} and query["text"].strip() for query in queries)


def test_judgments_name_existing_passages_and_cover_every_query(corpus, queries, judgments):
    passages = {passage["_id"] for passage in corpus}
    asked = {query["_id"] for query in queries}
    assert all(len(row) == 3 for row in judgments)
    assert {row[1] for row in judgments} <= passages
    assert {row[0] for row in judgments} == asked
    assert {row[2] for row in judgments} == {"1"}
    assert len({(query, passage) for query, passage, _ in judgments}) == len(judgments)


def test_some_queries_have_several_answers(judgments):
    answers: dict[str, int] = {}
    for query, _, _ in judgments:
        answers[query] = answers.get(query, 0) + 1
    assert sum(count > 1 for count in answers.values()) >= 10


def test_many_queries_share_no_word_with_an_answer(corpus, queries, judgments):
    """Where words alone find nothing, expansion has something to show."""
    words = {passage["_id"]: _words(f"{passage['title']} {passage['text']}") for passage in corpus}
    words |= {query["_id"]: _words(query["text"]) for query in queries}
    apart = {query for query, passage, _ in judgments if not words[query] & words[passage]}
    assert len(apart) >= 20


def _words(text: str) -> set[str]:
    """Words of five letters and more: shorter ones are mostly grammar."""
    return {word for word in re.findall("[a-z]+", text.lower()) if len(word) > 4}
