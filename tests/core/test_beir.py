import gzip

import pytest
from backports import zstd

from csplade.core.beir import load_dataset, read_qrels, read_queries
from csplade.core.errors import InputError

HEADER = "query-id\tcorpus-id\tscore\n"


def test_judged_queries_only(beir_folder):
    dataset = load_dataset(beir_folder())
    assert dataset.name == "small"
    assert dataset.queries == {"q1": "hot tea", "q2": "cold water"}
    assert dataset.qrels == {"q1": {"d1": 2, "d3": 1}, "q2": {"d3": 1}}
    assert dataset.corpus == dataset.folder / "corpus.jsonl"
    assert dataset.judged_at["d3"].endswith("test.tsv:3")


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "q1\td1\t2\nq1\td3\t1\nq2\td3\t1\n",
        "\ufeff" + HEADER + "q1\td1\t2\nq1\td3\t1\nq2\td3\t1\n",
        HEADER.replace("\n", "\r\n") + "q1\td1\t2\r\nq1\td3\t1\r\nq2\td3\t1\r\n",
        "q1\td1\t2\nq1\td3\t1\nq2\td3\t1\n",
        HEADER + "q1 \t d1\t 2 \nq1\td3\t1.0\nq2\td3\t1.\n",
        "q1 0 d1 2\nq1 0 d3 1\nq2 0 d3 1\n",
        "q1\t0\td1\t2\nq1\tQ0\td3\t1\nq2\t0\td3\t1\n",
        "query-id corpus-id score\nq1 d1 2\nq1 d3 1\nq2 d3 1\n",
        HEADER + "q1\td1\t2\nq1\td3\t1\nq1\td1\t2\nq2\td3\t1\nq2\td3\t1.0\n",
    ],
)
@pytest.mark.parametrize("compress", [None, gzip.compress, zstd.compress])
def test_judgments_in_many_forms(beir_folder, text, compress):
    folder = beir_folder()
    if compress:
        (folder / "qrels" / "test.tsv").unlink()
        name = "test.tsv.gz" if compress is gzip.compress else "test.tsv.zst"
        (folder / "qrels" / name).write_bytes(compress(text.encode()))
    else:
        (folder / "qrels" / "test.tsv").write_bytes(text.encode())
    assert load_dataset(folder).qrels == {"q1": {"d1": 2, "d3": 1}, "q2": {"d3": 1}}


def test_folders_and_tab_separated_queries(beir_folder):
    folder = beir_folder()
    (folder / "queries.jsonl").unlink()
    (folder / "queries").mkdir()
    (folder / "queries" / "one.tsv").write_text("q1\thot tea\nq1\thot tea\n")
    (folder / "queries" / "two.jsonl").write_text('{"id": "q2", "contents": "cold water"}\n')
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "test")
    assert load_dataset(folder).queries == {"q1": "hot tea", "q2": "cold water"}
    (folder / "queries.jsonl").write_text("")
    with pytest.raises(InputError, match=r"queries: queries\.jsonl is there as well; keep one"):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qrels/test.tsv": HEADER}, r"test\.tsv: no judgments"),
        ({"qrels/test.tsv": HEADER + "q1\td1\tgood\n"}, r"test\.tsv:2: grade: 'good' must be"),
        ({"qrels/test.tsv": HEADER + "q1\td1\t0.5\n"}, r"test\.tsv:2: grade: '0\.5' must be"),
        ({"qrels/test.tsv": HEADER + "q1\td1\t1_0\n"}, r"test\.tsv:2: grade: '1_0' must be"),
        ({"qrels/test.tsv": HEADER + "q1\td1\t\u0663\n"}, r"test\.tsv:2: grade: .* must be"),
        ({"qrels/test.tsv": HEADER + f"q1\td1\t{10**20}\n"}, r"grade: .* from -10,000 to 10,000"),
        ({"qrels/test.tsv": HEADER + "q1\td1\n"}, r"test\.tsv:2: needs query, document, grade"),
        ({"qrels/test.tsv": HEADER + "q1\td1\t1\t0\n"}, r"test\.tsv:2: needs query, document, g"),
        ({"qrels/test.tsv": HEADER + "q 1\td1\t1\n"}, r"test\.tsv:2: query id: 'q 1' has white"),
        ({"qrels/test.tsv": "q1\td1\t1\t0\n"}, r"test\.tsv:1: the second of four columns must be"),
        ({"qrels/test.tsv": "q1\td1\t1\nq1\t0\td3\t1\n"}, r"test\.tsv:2: needs query, document"),
        ({"qrels/test.tsv": "q1\td1\nq1\td3\n"}, r"test\.tsv:1: needs query, document, grade or"),
        (
            {"qrels/test.tsv": HEADER + "query-id\tcorpus-id\tscore\tx\n"},
            r"test\.tsv:2: needs query, document, grade",
        ),
        (
            {"qrels/test.tsv": HEADER + "q1\td1\t1\nq1\td1\t2\n"},
            r"test\.tsv:3: query 'q1' and document 'd1' have grade 1 already, now 2",
        ),
        (
            {"qrels/test.tsv": HEADER + "q9\td1\t1\n"},
            r"test\.tsv:2: query 'q9' is judged, but .* has no text of it",
        ),
        ({"queries.jsonl": ""}, r"queries\.jsonl: no queries"),
        ({"queries.jsonl": '{"_id": "q1"}\n'}, r"queries\.jsonl:1: 'text' or 'contents' is needed"),
        ({"queries.jsonl": '{"_id": "q1", "text": null}\n'}, r"queries\.jsonl:1: text: None must"),
        ({"queries.jsonl": '{"text": "x"}\n'}, r"queries\.jsonl:1: '_id' or 'id' is needed"),
        (
            {"queries.jsonl": '{"_id": "q 1", "text": "x"}\n'},
            r"queries\.jsonl:1: _id: 'q 1' has wh",
        ),
        (
            {"queries.jsonl": '{"_id": "q1", "text": "x"}\n{"_id": "q1", "text": "y"}\n'},
            r"queries\.jsonl:2: query 'q1' is there already, with another text",
        ),
        ({"queries.jsonl": '\n{"_id": \n'}, r"queries\.jsonl:2: broken JSON line"),
    ],
)
def test_errors_name_file_and_line(beir_folder, changes, message):
    folder = beir_folder(**changes)
    with pytest.raises(InputError, match=message):
        load_dataset(folder)


def test_a_missing_split_or_folder_is_named(beir_folder, tmp_path):
    folder = beir_folder()
    with pytest.raises(InputError, match=r"train\.tsv: no such file; splits that exist: test"):
        load_dataset(folder, "train")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load_dataset(tmp_path / "nowhere")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(InputError, match=r"queries\.jsonl: no such file"):
        load_dataset(folder)


def test_integers_are_ids(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"_id": 1, "text": "x"}\n{"_id": "1", "text": "x"}\n')
    (tmp_path / "q.tsv").write_text("1\tx\n")
    assert read_queries(tmp_path / "q.jsonl") == read_queries(tmp_path / "q.tsv") == {"1": "x"}
    (tmp_path / "q.tsv").write_text("1 x\n")
    with pytest.raises(InputError, match=r"q\.tsv:1: needs query id, tab and text"):
        read_queries(tmp_path / "q.tsv")
    (tmp_path / "qrels").write_text("1 0 2 -1\n")
    assert read_qrels(tmp_path / "qrels") == {"1": {"2": -1}}
