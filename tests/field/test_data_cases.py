"""Odd files of data that people have: read right, or rejected with file and line.

The cases stand in the folder that ``CSPLADE_CASES`` names, else in ``../shared/cases`` beside the
repository. The same forms are tested one by one in tests/core, tests/ingest and tests/cli.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from csplade.core.beir import load_dataset
from csplade.core.corpus import read_corpus
from csplade.core.errors import InputError
from csplade.evaluation.measures import judge
from csplade.ingest.trec import read_run
from csplade.ingest.vectors import read_vectors
from csplade.model.training.data import Collection

from .conftest import CASES

SERVING, ENCODER = CASES / "serving", CASES / "encoder"

pytestmark = pytest.mark.skipif(
    not CASES.is_dir(), reason=f"no cases at {CASES}; name their folder in CSPLADE_CASES"
)


def rejected(read, path) -> str:
    """The one line with which a file is rejected; it begins with a file, mostly with a line."""
    with pytest.raises(InputError) as raised:
        read(path)
    said = str(raised.value)
    assert "\n" not in said
    assert said.startswith(str(path))
    return said


def ids(path) -> list[str]:
    return [document.id for document in read_corpus(path)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bom.jsonl", ["a"]),
        ("crlf.jsonl", ["a"]),
        ("ctrl.jsonl", ["a"]),
        ("emptytext.jsonl", ["a"]),
        ("intid.jsonl", ["1"]),
        ("metaclash.jsonl", ["a"]),
        ("nulltitle.jsonl", ["a"]),
        ("z.jsonl.zst", ["a"]),
    ],
)
def test_corpora_that_are_read(name, expected):
    assert ids(SERVING / "corpus-forms" / name) == expected


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("array.json", ":1: .*one object a line"),
        ("c.tsv", ":1: broken JSON line"),
        ("docid.jsonl", ":1: '_id' or 'id' is needed"),
        ("dup.jsonl", ":2: id 'a' is on line 1 already"),
        ("latin1.jsonl", ":1: byte 0xe9 at column 23 is not UTF-8"),
        ("listtext.jsonl", ":1: text: .* must be a string"),
        ("notext.jsonl", ":1: 'text' or 'contents' is needed"),
        ("nulltext.jsonl", ":1: text: None must be a string"),
        ("utf16.jsonl", ": is UTF-16"),
    ],
)
def test_corpora_that_are_rejected(name, problem):
    assert re.search(problem, rejected(ids, SERVING / "corpus-forms" / name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("content.jsonl", {"a": {"cat": 0.5}}),
        ("emptyvec.jsonl", {"a": {}}),
        ("folder", {"a": {"cat": 0.5}, "b": {"cat": 0.7}}),
        ("intid.jsonl", {"7": {"cat": 0.5}}),
        ("leadingzero.jsonl", {"a": {"007": 0.5}, "b": {"7": 0.5}}),
        ("mixed.jsonl", {"a": {"12": 0.5}, "b": {"[unused9]": 0.5}}),
        ("qdrant.jsonl", {"a": {"3": 0.2, "5": 0.3}}),
        ("zero.jsonl", {"a": {"cat": 0.5}}),
        ("../zero-weight/v.jsonl", {"a": {"4": 0.5}, "b": {}, "c": {"4": 0.7}}),
    ],
)
def test_vectors_that_are_read(name, expected):
    found = {
        line.document.id: dict(zip(line.terms, line.weights.tolist(), strict=True))
        for line in read_vectors(SERVING / "vector-forms" / name)
    }
    assert found == {one: pytest.approx(vector) for one, vector in expected.items()}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("array.json", ":1: .*JSON"),
        ("denormal.jsonl", ":1: weight of term 'cat' is 1e-45"),
        ("docid.jsonl", ":1: '_id' or 'id' is needed"),
        ("dupkey.jsonl", ":1: .*key 'cat' is there twice"),
        ("listcontents.jsonl", ":1: contents: .* must be a string"),
        ("negative.jsonl", ":1: weight of term 'dog' is -0.2"),
        ("pairs.jsonl", ":1: 'vector' is needed, an object"),
        ("strweight.jsonl", ":1: weight of term 'cat' is '0.5', must be a number"),
        ("tsv.tsv", ":1: broken JSON line"),
    ],
)
def test_vectors_that_are_rejected(name, problem):
    path = SERVING / "vector-forms" / name
    assert re.search(problem, rejected(lambda path: list(read_vectors(path)), path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("allzero", {"q001": {"sky-blue": 1}, "q139": {"gps": 0}}),
        *(
            (name, {"q001": {"sky-blue": 1}})
            for name in ("bom", "crlf", "dup", "floatgrade", "gz", "intq", "qgz", "spaces")
        ),
        *(
            (name, {"q001": {"sky-blue": 1}, "q139": {"gps": 1}})
            for name in ("noheader", "trec4", "trec4tab")
        ),
        ("missingdocs", {"q001": {"nodoc1": 1, "nodoc2": 1}}),
        ("neg", {"q001": {"sky-blue": 2, "nosuchdoc": -2}, "q139": {"gps": -1}}),
    ],
)
def test_judgments_that_are_read(name, expected):
    assert load_dataset(SERVING / "qrels" / name).qrels == expected


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("big", r"test\.tsv:2: grade: '99999999999999999999' must be"),
        ("big2", r"test\.tsv:2: grade: '1_0' must be"),
        ("empty", r"test\.tsv: no judgments"),
        ("extracol", r"test\.tsv:1: the second of four columns"),
        ("extracol2", r"test\.tsv:2: needs query, document, grade"),
        ("extraq", r"test\.tsv:3: query 'NOPE' is judged, but"),
        ("utf16", r"test\.tsv: is UTF-16"),
    ],
)
def test_judgments_that_are_rejected(name, problem):
    assert re.search(problem, rejected(load_dataset, SERVING / "qrels" / name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bom.trec", {"q001": ["sky-blue"]}),
        ("bom2.trec", {"q001": ["sky-blue"], "q139": ["gps"]}),
        ("inf.trec", {"q001": ["other", "sky-blue"]}),
        ("ok.trec", {"q001": ["sky-blue"], "q139": ["gps"]}),
        ("ok.trec.gz", {"q001": ["sky-blue"], "q139": ["gps"]}),
        ("tagspace.trec", {"q001": ["sky-blue"]}),
        ("tie2.trec", {"q001": ["aaa", "sky-blue"]}),
    ],
)
def test_runs_that_are_read(name, expected):
    assert read_run(SERVING / "runs" / name).rankings == expected


@pytest.mark.parametrize(
    "name",
    [
        "badrank.trec", "comma.trec", "dupdoc.trec", "emptyrun.trec", "fivecol.trec",
        "floatrank.trec", "latin1.trec", "marco.tsv", "nan.trec", "run.json", "underscore.trec",
        "utf16.trec",
    ],
)  # fmt: skip
def test_runs_that_are_rejected(name):
    rejected(read_run, SERVING / "runs" / name)


def test_queries_that_are_documents_are_measured_as_beir_does():
    case = SERVING / "arguana-self"
    dataset = load_dataset(case / "ds")
    script = (case / "beir.py").read_text()
    theirs = subprocess.run(
        [sys.executable, "-c", script], cwd=case, capture_output=True, text=True, check=True
    )
    found = judge(dataset.qrels, read_run(case / "run.trec").rankings)
    assert f"{found.measures['nDCG@10']:.4f}" == f"{float(theirs.stdout.split()[-1]):.4f}"
    assert found.own_hits > 0


def test_ids_with_white_space_are_rejected_with_the_remedy():
    case = SERVING / "id-whitespace"
    said = rejected(ids, case / "corpus.jsonl")
    assert ":1: _id: 'manual v2.pdf#3' has white space" in said
    assert "replace it" in said


def test_metadata_is_json():
    assert "NaN is not JSON" in rejected(ids, SERVING / "nan-metadata" / "corpus.jsonl")


@pytest.mark.parametrize("name", ["ties", "ints-above-255"])
def test_a_run_of_ties_is_ordered_alike_by_trec_eval(tmp_path, monkeypatch, name):
    from csplade.cli.main import main

    case = SERVING / name
    queries = case / ("queries_vec.jsonl" if name == "ties" else "queries.jsonl")
    index, run = tmp_path / "index", tmp_path / "run.trec"
    for command in (
        ["index", "build", "--vectors", case / "vectors.jsonl", "--out", index],
        ["search", index, "--vectors", queries, "-k", 200, "--output", run],
    ):
        monkeypatch.setattr(sys, "argv", ["csplade", *map(str, command)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
    import pytrec_eval

    ours = read_run(run)
    assert ours.ties == 0
    with open(run) as file:
        theirs = pytrec_eval.parse_run(file)
    qrels = {query: {ranking[len(ranking) // 2]: 1} for query, ranking in ours.rankings.items()}
    measured = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(theirs)
    for query, ranking in ours.rankings.items():
        assert measured[query]["recip_rank"] == pytest.approx(1 / (len(ranking) // 2 + 1))


@pytest.mark.parametrize(
    "name",
    [
        "good", "int-ids", "missing-id", "qrels-bom", "qrels-crlf", "qrels-dup", "qrels-msmarco",
        "qrels-noheader", "qrels-quote", "qrels-trec", "query-empty",
    ],
)  # fmt: skip
def test_collections_that_can_be_trained_on(name):
    loaded = Collection.load(ENCODER / "beir-odd" / name, "train")
    assert loaded.positives["q1"] in (["d0"], ["0"])
    assert "None" not in loaded.passages.values()


@pytest.mark.parametrize(
    "name",
    [
        "dup-id", "grade-half", "list-text", "missing-text", "null-text", "qrels-all-zero",
        "qrels-empty", "qrels-float", "qrels-latin1", "qrels-short", "qrels-unknown-doc",
        "query-null", "surrogate",
    ],
)  # fmt: skip
def test_collections_that_training_rejects(name):
    folder = ENCODER / "beir-odd" / name
    said = rejected(lambda path: Collection.load(path, "train"), folder)
    assert name in ("qrels-all-zero", "qrels-empty") or re.search(r"\w:\d+: ", said)


@pytest.mark.parametrize(
    "path", sorted((ENCODER / "jsonl").glob("*.*")), ids=lambda path: path.name
)
def test_lines_are_read_or_rejected_with_file_and_line(path):
    if path.name == "README.md":
        pytest.skip("tells about the others")
    said: list[str] = []
    try:
        documents = list(read_corpus(path, on_bad=lambda error: said.append(str(error))))
    except InputError as error:  # the whole file
        documents, said = [], [str(error)]
    assert all(re.match(rf"{re.escape(str(path))}(:\d+)?: ", one) for one in said)
    json.dumps([vars(document) for document in documents], ensure_ascii=False).encode()
