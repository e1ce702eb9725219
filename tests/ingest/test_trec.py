import pytest

from csplade.core.errors import InputError
from csplade.ingest.trec import read_run, write_run


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
    assert read_run(path) == {"q1": ["b", "z", "a", "m"], "q3": ["x", "y"]}


def test_nothing_stays_of_a_run_that_failed(tmp_path):
    with (
        pytest.raises(InputError, match="document id 'two words'"),
        write_run(tmp_path / "run.trec") as run,
    ):
        run.write("q1", [("fine", 1.0), ("two words", 0.5)])
    assert list(tmp_path.iterdir()) == []


def test_scores_decide_over_ranks(tmp_path):
    path = tmp_path / "run.trec"
    path.write_text("q Q0 low 1 0.5 t\nq Q0 high 2 1e2 t\n")
    assert read_run(path) == {"q": ["high", "low"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no run lines"),
        ("q Q0 d 1 0.5\n", r":1: a run line is"),
        ("q Q0 d 1 0.5 t\nq Q0 e one 0.5 t\n", r":2: a run line is"),
        ("q Q0 d 1 nan t\n", r":1: score 'nan'"),
        ("q Q0 d 1 2 t\nq Q0 d 2 1 t\n", r":2: document 'd' is there twice"),
    ],
)
def test_bad_runs(tmp_path, text, message):
    path = tmp_path / "run.trec"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_run(path)
