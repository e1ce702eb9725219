import pytest

from csplade.core.beir import load_dataset
from csplade.core.errors import InputError

HEADER = "query-id\tcorpus-id\tscore\n"


def test_judged_queries_only(beir_folder):
    dataset = load_dataset(beir_folder())
    assert dataset.name == "small"
    assert dataset.queries == {"q1": "hot tea", "q2": "cold water"}
    assert dataset.qrels == {"q1": {"d1": 2, "d3": 1}, "q2": {"d3": 1}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qrels/test.tsv": "q1\td1\t1\n"}, r"test\.tsv:1: needs the tab-separated header"),
        ({"qrels/test.tsv": HEADER}, r"test\.tsv: no judgments"),
        (
            {"qrels/test.tsv": HEADER + "q1\td1\tgood\n"},
            r"test\.tsv:2: needs query id.*'q1\\td1\\tgood'",
        ),
        ({"qrels/test.tsv": HEADER + "q1\td1\n"}, r"test\.tsv:2: needs query id"),
        ({"qrels/test.tsv": HEADER + "q1\td1\t1\nq1\td1\t2\n"}, r"test\.tsv:3: .*judged twice"),
        (
            {"qrels/test.tsv": HEADER + "q9\td1\t1\n"},
            r"1 judged queries are not in queries\.jsonl.*'q9'",
        ),
        ({"queries.jsonl": ""}, r"queries\.jsonl: no queries"),
        ({"queries.jsonl": '{"_id": "q1"}\n'}, r"queries\.jsonl:1: query 'q1' needs 'text'"),
        ({"queries.jsonl": '{"text": "x"}\n'}, r"queries\.jsonl:1: a query needs '_id'"),
        (
            {"queries.jsonl": '{"_id": "q1", "text": "x"}\n' * 2},
            r"queries\.jsonl:2: query id 'q1' is there twice",
        ),
        ({"queries.jsonl": '\n{"_id": \n'}, r"queries\.jsonl:2: broken JSON line"),
    ],
)
def test_errors_name_file_and_line(beir_folder, changes, message):
    folder = beir_folder(**changes)
    with pytest.raises(InputError, match=message):
        load_dataset(folder)


def test_a_missing_split_names_the_others(beir_folder):
    folder = beir_folder(**{"qrels/dev.tsv": HEADER + "q1\td1\t1\n"})
    with pytest.raises(
        InputError, match=r"train\.tsv: no such file; splits that are there: dev, test"
    ):
        load_dataset(folder, "train")


def test_a_missing_folder(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load_dataset(tmp_path / "nowhere")
