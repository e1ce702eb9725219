import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from csplade.core.vectors import SparseBatch
from csplade.index import Index
from csplade.ingest.trec import read_run


def test_a_table_for_people(cli, small_index):
    outcome = cli("search", small_index, "coffee and tea", "-k", 3, "--explain")
    header, *rows = outcome.out.splitlines()
    assert outcome.code == 0
    assert header.split() == ["rank", "score", "id", "document", "terms"]
    assert [row.split()[0] for row in rows[:3]] == ["1", "2", "3"]
    assert rows[3].startswith("3 of ")
    assert "\x1b" not in outcome.out


def test_json_explains_to_the_unit(cli, small_index):
    outcome = cli("search", small_index, "coffee and tea", "-k", 5, "--json", "--explain")
    answer = json.loads(outcome.out)
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3, 4, 5]
    for hit in answer["hits"]:
        products = [one["product"] for one in hit["contributions"]]
        assert sum(products) == hit["integer_score"]
        assert products == sorted(products, reverse=True)
        assert hit["score"] == pytest.approx(hit["integer_score"] * answer["score_scale"])
        assert hit["metadata"]["year"] == 1900 + int(hit["id"][1:])
    assert set(answer["cut"]) == {"tokens", "terms", "impacts"}


def test_bulk_texts_rank_like_single_ones(cli, lines, small_index, tmp_path):
    queries = lines("q.jsonl", {"_id": "a", "text": "coffee and tea"}, {"_id": "b", "text": ""})
    run = tmp_path / "run.trec"
    outcome = cli(
        "search", small_index, "--queries", queries, "-k", 7, "--output", run, "--tag", "mine"
    )
    assert (outcome.code, outcome.out) == (0, f"{run}: 7 hits of 2 queries\n")
    assert "1 queries have no hits" in outcome.err
    single = json.loads(cli("search", small_index, "coffee and tea", "-k", 7, "--json").out)
    assert read_run(run).rankings == {"a": [hit["id"] for hit in single["hits"]]}
    assert run.read_text().splitlines()[0].endswith(" mine")


@pytest.fixture(scope="module")
def string_index(tmp_path_factory, many_vectors):
    from csplade.ingest.build import build_from_vectors

    path = tmp_path_factory.mktemp("strings") / "index"
    build_from_vectors(many_vectors, path, shards=2)
    return path


def test_bulk_vectors_give_the_oracles_integers(cli, lines, tmp_path, string_index):
    content = [
        {"id": "a", "vector": {"tea": 1.5, "river": 0.25, "moon": 3}},
        {"id": "b", "vector": {"2019": 2, "ünï": 0.1}},
        {"id": "c", "vector": {"moon": 1}},
    ]
    queries = tmp_path / "q.jsonl.gz"
    queries.write_bytes(gzip.compress(lines("q.jsonl", *content).read_bytes()))
    run = tmp_path / "run.trec"
    outcome = cli(
        "search",
        string_index,
        "--vectors",
        queries,
        "-k",
        1000,
        "--output",
        run,
        "--integer-scores",
    )
    assert outcome.code == 0
    assert "2 query terms were cut" in outcome.err
    assert "1 queries have no hits" in outcome.err
    with Index.open(string_index) as index:
        words = index.manifest.vocabulary
        assert words == sorted(words)
        terms = [
            [words.index("river"), words.index("tea")],
            [words.index("2019"), words.index("ünï")],
        ]
        weights = [[0.25, 1.5], [2, 0.1]]
        batch = SparseBatch.from_rows(zip(terms, weights, strict=True)).quantize_queries(
            index.manifest.max_impact
        )
        truth = index.oracle(batch, 1000)
        ids = [one.id for one in index.fetch(truth.shards, truth.ordinals)]
    expected = [f"{one} {score}" for one, score in zip(ids, truth.scores.tolist(), strict=True)]
    found = [line.split() for line in run.read_text().splitlines()]
    assert [f"{line[2]} {line[4]}" for line in found] == expected
    assert [line[0] for line in found] == ["a"] * int(truth.indptr[1]) + ["b"] * int(
        np.diff(truth.indptr)[1]
    )


def test_vectors_with_integer_ids(cli, fails, lines, tmp_path):
    vectors = lines(
        "v.jsonl",
        {"id": "x", "vector": {"3": 40, "70000": 200}},
        {"id": "y", "vector": {"70000": 7}},
    )
    index, run = tmp_path / "index", tmp_path / "run.trec"
    assert cli("index", "build", "--vectors", vectors, "--out", index).code == 0
    info = json.loads(cli("index", "info", index, "--json").out)
    # whole numbers up to 255 are somebody else's impacts and stay as they are
    assert (
        info["vocabulary_size"],
        info["document_scale"],
        info["terms"],
    ) == (
        70001,
        1,
        "ids",
    )
    queries = lines("q.jsonl", {"id": "q", "vector": {"70000": 2, "3": 1, "99999999": 5}})
    assert cli("search", index, "--vectors", queries, "--output", run, "--integer-scores").code == 0
    assert run.read_text() == "q Q0 x 1 440 csplade\nq Q0 y 2 14 csplade\n"
    words = lines("words.jsonl", {"id": "q", "vector": {"tea": 2}})
    assert ":1: term 'tea' is a token string, the index has integer ids" in fails(
        "search", index, "--vectors", words, "--output", tmp_path / "r"
    )
    assert "no encoder" in fails("search", index, "tea")


def test_token_strings_go_through_the_models_vocabulary(
    cli, lines, small_index, tiny_model, tmp_path
):
    from csplade.model import Encoder

    encoder = Encoder.from_pretrained(tiny_model)
    ids = {
        str(term): weight for term, weight in zip(*map(list, _first_vector(encoder)), strict=True)
    }
    names = {encoder.token(int(term)): weight for term, weight in ids.items()}
    pair = {"indices": list(map(int, ids)), "values": list(ids.values())}
    forms = {"ids": (ids, "ids"), "names": (names, "auto"), "pair": (pair, "auto")}
    for name, (vector, terms) in forms.items():
        queries = lines(f"{name}.jsonl", {"id": "q", "vector": vector})
        command = ("search", small_index, "--vectors", queries, "--output", tmp_path / name)
        assert cli(*command, "--terms", terms).code == 0
    assert len({(tmp_path / name).read_text() for name in forms}) == 1
    assert (tmp_path / "ids").read_text()


def test_a_query_means_the_same_beside_others(cli, lines, small_index, tmp_path):
    digits = {"id": "q7", "vector": {"1": 1.0, "9": 1.0, "6": 1.0}}
    one = lines("one.jsonl", digits)
    two = lines("two.jsonl", digits, {"id": "q8", "vector": {"tea": 1.0}})
    for path in (one, two):
        outcome = cli("search", small_index, "--vectors", path, "--output", f"{path}.trec")
        assert outcome.code == 0
        told = "every query term is a number, read as a token string; --terms ids" in outcome.err
        assert told == (path == one)
    hits = Path(f"{two}.trec").read_text().splitlines()
    assert Path(f"{one}.trec").read_text().splitlines() == [
        hit for hit in hits if hit.startswith("q7 ")
    ]


def test_topics_of_anserini(cli, lines, string_index, tmp_path):
    vectors = lines("v.jsonl", {"id": "3", "vector": {"tea": 2, "river": 1}})
    topics = tmp_path / "topics.tsv"
    topics.write_text("3\ttea tea river moonless\n")
    for path in (vectors, topics):
        outcome = cli("search", string_index, "--vectors", path, "--output", f"{path}.trec")
        assert outcome.code == 0, outcome
    assert Path(f"{topics}.trec").read_text() == Path(f"{vectors}.trec").read_text() != ""
    assert "1 query terms were cut by the term cap or are not in the index" in outcome.err


def _first_vector(encoder):
    terms, weights = encoder.encode_query(["coffee and tea"]).row(0)
    return terms.tolist(), [float(weight) for weight in weights]


def test_another_model_is_refused(fails, small_index, tiny_model_of):
    other = tiny_model_of(logit_scale=0.4)
    assert "was built by an encoder" in fails("search", small_index, "tea", "--model", other)


def test_bad_input(fails, lines, small_index, tmp_path, string_index):
    run = tmp_path / "run.trec"
    assert "no index here" in fails("search", tmp_path / "nowhere", "tea")
    assert "no such file" in fails(
        "search", small_index, "--queries", tmp_path / "no.jsonl", "--output", run
    )
    broken = lines("broken.jsonl", {"_id": "a", "text": "x"}, "{")
    assert f"{broken}:2: broken JSON" in fails(
        "search", small_index, "--queries", broken, "--output", run
    )
    negative = lines("negative.jsonl", {"id": "a", "vector": {"t": -1}})
    assert ":1: weight of term 't' is -1" in fails(
        "search", string_index, "--vectors", negative, "--output", run
    )
    wide = lines("wide.jsonl", {"id": "a", "vector": {str(i): 1 for i in range(2049)}})
    assert ":1: query 'a' has 2049 terms" in fails(
        "search", string_index, "--vectors", wide, "--output", run
    )
    spaced = lines("spaced.jsonl", {"id": "a b", "vector": {"tea": 1}})
    assert ":1: id: 'a b' has white space" in fails(
        "search", string_index, "--vectors", spaced, "--output", run
    )
    assert not run.exists()


def test_usage_errors(cli, small_index, tmp_path):
    assert cli("search", small_index).code == 2
    assert cli("search", small_index, "tea", "--queries", "q", "--output", "r").code == 2
    assert cli("search", small_index, "tea", "--output", "r").code == 2
    assert cli("search", small_index, "--queries", "q").code == 2
    assert cli("search", small_index, "--queries", "q", "--output", "r", "--explain").code == 2
    assert cli("search", small_index, "tea", "--integer-scores").code == 2
    assert cli("search", small_index, "tea", "-k", 0).code == 2
    assert cli("search", small_index, "tea", "-k", 10_001).code == 2
    assert cli("search").code == 2


def test_hits_are_fused_with_a_second_run(cli, lines, string_index, tmp_path):
    queries = lines("q.jsonl", {"id": "a", "vector": {"tea": 2}}, {"id": "b", "vector": {"sky": 1}})
    command = ("search", string_index, "--vectors", queries, "-k", 3, "--output")
    assert cli(*command, tmp_path / "own").code == 0
    own = read_run(tmp_path / "own")
    first, second, third = own.rankings["a"]
    other = tmp_path / "other.trec"
    other.write_text(f"a Q0 {second} 1 9.0 dense\na Q0 elsewhere 2 8.0 dense\n")
    assert cli(*command, tmp_path / "rrf", "--fuse", other).code == 0
    fused = read_run(tmp_path / "rrf")
    assert fused.rankings["a"] == [second, first, "elsewhere"]
    assert fused.scores["a"] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])
    assert fused.rankings["b"] == own.rankings["b"]
    weighed = (*command, tmp_path / "sum", "--fuse", other, "--fusion", "sum", "--fuse-weight", 1)
    assert cli(*weighed).code == 0
    assert read_run(tmp_path / "sum").rankings["a"][0] == second
    assert third not in fused.rankings["a"]


def test_fusion_is_checked_first(cli, fails, lines, string_index, tmp_path):
    queries = lines("q.jsonl", {"id": "a", "vector": {"tea": 2}})
    command = ("search", string_index, "--vectors", queries, "--output", tmp_path / "run")
    other = tmp_path / "other.trec"
    other.write_text("a Q0 d1 1 inf dense\n")
    assert "has an infinite score" in fails(*command, "--fuse", other, "--fusion", "sum")
    other.write_text("a Q0 d1 1\n")
    assert "other.trec:1: a run line is" in fails(*command, "--fuse", other)
    assert cli("search", string_index, "tea", "--fuse", other).code == 2
    assert cli(*command, "--fuse", other, "--integer-scores").code == 2
    assert cli(*command, "--fuse", other, "--fuse-weight", 0.2).code == 2
