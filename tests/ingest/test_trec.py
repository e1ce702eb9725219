import gzip

import pytest
from backports import zstd

from csplade.core.errors import InputError
from csplade.ingest.trec import check_run_place, read_run, write_run


def test_round_trip_keeps_the_order_of_ties(tmp_path):
    path = tmp_path / "run.trec"
    hits = [("b", 1.5), ("z", 0.3), ("a", 0.3), ("m", 0.3)]
    with write_run(path, tag="mine") as run:
        run.write("q1", hits)
        run.write("q2", [])
        run.write("q3", [("x", 2_000_000_001), ("y", 2_000_000_000)])
    assert run.lines == 6
    assert path.read_text().splitlines()[0] == "q1 Q0 b 1 1.5 mine"
    assert path.read_text().splitlines()[-1] == "q3 Q0 y 2 2000000000 mine"
    assert read_run(path).rankings == {"q1": ["b", "z", "a", "m"], "q3": ["x", "y"]}
    assert (run.ties, read_run(path).ties) == (1, 1)  # integers stay exact


@pytest.mark.parametrize(
    "scores",
    [
        [2.0] * 5,
        [20_000_001.0, 20_000_000.0, 19_999_999.0],
        [1.0 + 3e-9, 1.0 + 2e-9, 1.0, 1.0, 1.0 - 1e-9],
        [1e-40, 1e-40, 1e-40],
        [3e38, 3e38, 0.0],
    ],
)
def test_trec_eval_keeps_the_order_of_a_written_run(tmp_path, scores):
    import pytrec_eval

    path = tmp_path / "run.trec"
    documents = [f"d{i}" for i in range(len(scores))]  # trec_eval orders ties by id, descending
    with write_run(path) as run:
        run.write("q", zip(documents, scores, strict=True))
    assert read_run(path).rankings == {"q": documents}
    with open(path) as file:
        theirs = pytrec_eval.parse_run(file)
    for place, document in enumerate(documents, 1):
        judge = pytrec_eval.RelevanceEvaluator({"q": {document: 1}}, {"recip_rank"})
        assert judge.evaluate(theirs)["q"]["recip_rank"] == pytest.approx(1 / place)


def test_nothing_stays_of_a_run_that_failed(tmp_path):
    def write(query):
        with write_run(tmp_path / "run.trec") as run:
            run.write("q1", [("fine", 1.0)])
            run.write(query, [("fine", 1.0)])

    with pytest.raises(InputError, match="query id: 'two words' has white space"):
        write("two words")
    with pytest.raises(InputError, match="query id: 'q1' is there twice"):
        write("q1")
    assert list(tmp_path.iterdir()) == []


def test_a_document_id_with_white_space_loses_no_run(tmp_path):
    with write_run(tmp_path / "run.trec") as run:
        run.write("q1", [("two words\t!", 1.0), ("fine", 0.5)])
    assert run.altered == 1
    assert read_run(tmp_path / "run.trec").rankings == {"q1": ["two_words_!", "fine"]}


@pytest.mark.parametrize(
    ("name", "tag", "message"),
    [
        ("no/run.trec", "t", "the folder .*no does not exist"),
        ("", "t", "is a folder"),
        ("run.trec.gz", "t", "compress it afterwards"),
        ("notes.txt", "t", "exists and is not a TREC run; delete it"),
        ("run.trec", "two words", "tag: 'two words' has white space"),
    ],
)
def test_where_a_run_cannot_be_written(tmp_path, name, tag, message):
    (tmp_path / "notes.txt").write_text("mine\n")
    with pytest.raises(InputError, match=message):
        check_run_place(tmp_path / name, tag)
    with pytest.raises(InputError, match=message), write_run(tmp_path / name, tag):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine\n"


def test_an_older_run_is_replaced(tmp_path):
    path = tmp_path / "run.trec"
    for document in ("a", "b"):
        with write_run(path) as run:
            run.write("q", [(document, 1.0)])
    assert read_run(path).rankings == {"q": ["b"]}


def test_scores_decide_over_ranks(tmp_path):
    path = tmp_path / "run.trec"
    path.write_text("q Q0 low 1 0.5 t\nq Q0 high 2 1e2 t\n")
    assert read_run(path).rankings == {"q": ["high", "low"]}
    path.write_text("q Q0 late 2 7.5 t\nq Q0 early 1 7.5 t\n")
    assert read_run(path).rankings == {"q": ["early", "late"]}  # ties by rank
    assert read_run(path).ties == 1
    path.write_text("q Q0 first 1 20000001 t\nq Q0 second 2 20000000 t\n")
    assert read_run(path).ties == 1  # for trec_eval, in float32


@pytest.mark.parametrize(
    "content",
    [
        b"q1 Q0 d 1 2.0 t\nq2 Q0 e 1 1 t\n",
        b"\xef\xbb\xbfq1 Q0 d 1 2.0 t\r\nq2 Q0 e 1 1. t\r\n",
        b"q1\tQ0\td\t1\t2.0\tmy tag\nq2\tQ0\te\t1\tinf\tmy tag\n",
        b"q1 Q0 d 1 2.0 t\n\n\xef\xbb\xbfq2 0 e 1 -1e-3 t\nq1 Q0 d 1 2 other\n",
        gzip.compress(b"q1 Q0 d 1 2.0 t\nq2 Q0 e 1 1.0 t\n"),
        zstd.compress(b"q1 Q0 d 1 2.0 t\nq2 Q0 e 1 1.0 t\n"),
    ],
)
def test_one_run_in_many_forms(tmp_path, content):
    path = tmp_path / "run.trec"
    path.write_bytes(content)
    assert read_run(path).rankings == {"q1": ["d"], "q2": ["e"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no run lines"),
        ("q Q0 d 1 0.5\n", r":1: a run line is"),
        ("q Q0 d 1 0.5 t\nq Q0 e one 0.5 t\n", r":2: a run line is"),
        ("q Q0 d 1 nan t\n", r":1: score: 'nan' must be a number"),
        ("q Q0 d 1 2,5 t\n", r":1: score: '2,5' must be"),
        ("q Q0 d 1 1_0.5 t\n", r":1: score: '1_0\.5' must be"),
        ("q Q0 d 1 \u0663 t\n", r":1: score: .* must be"),
        ("q Q0 d 1.0 2 t\n", r":1: a run line is"),
        ("q\td\t1\n", r":1: a run line is"),
        ('{"q": {"d": 1.0}}', r":1: a run line is"),
        ("q Q0 d 1 2 t\nq Q0 d 2 1 t\n", r":2: document 'd' is there already under"),
    ],
)
def test_bad_runs(tmp_path, text, message):
    path = tmp_path / "run.trec"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_run(path)
