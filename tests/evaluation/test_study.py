import numpy as np
import pytest

from csplade.evaluation.study import Table, _at
from csplade.evaluation.study_data import split_judgments
from csplade.evaluation.study_models import _largest


def test_judgments_are_split_by_query_and_none_is_lost(tmp_path):
    folder = tmp_path / "in"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("c\n")
    (folder / "queries.jsonl").write_text("q\n")
    lines = ["q1\tp1\t1", "q1\tp2\t1", "q2\tp3\t1", "q3\tp4\t1", "q4\tp5\t1"]
    (folder / "qrels" / "test.tsv").write_text(
        "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"
    )
    out = split_judgments(folder, tmp_path / "out")
    train, dev = (
        (out / "qrels" / f"{name}.tsv").read_text().splitlines()[1:] for name in ("train", "dev")
    )
    assert dev == ["q3\tp4\t1"]
    assert sorted(train + dev) == sorted(lines)
    assert (out / "corpus.jsonl").read_text() == "c\n"


def test_caps_keep_the_largest_weights():
    weights = np.array([[1.0, 0.0, 3.0, 2.0], [0.5, 0.25, 0.0, 0.0]], dtype=np.float32)
    assert _largest(weights, 2).tolist() == [[0.0, 0.0, 3.0, 2.0], [0.5, 0.25, 0.0, 0.0]]
    assert _largest(weights, 9) is weights


def test_tables_are_markdown():
    table = Table("T", ["", "x"], [["a", "1"], ["b", "2"]])
    assert table.markdown() == "### T\n\n|  | x |\n| --- | --- |\n| a | 1 |\n| b | 2 |\n"


@pytest.mark.parametrize(("share", "value"), [(0.0, 5.0), (0.5, 7.0), (1.0, 9.0)])
def test_logs_are_read_by_share(share, value):
    assert _at([5.0, 6.0, 7.0, 8.0, 9.0], share) == value
