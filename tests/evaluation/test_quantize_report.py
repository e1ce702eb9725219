"""The quantization report on a tiny model: rows, resumption, what a device cannot do."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest

from csplade.core.beir import load_dataset
from csplade.core.errors import IncompatibleError, InputError, UnavailableError
from csplade.core.vectors import SparseBatch
from csplade.evaluation import quantize_ranking, quantize_report, quantize_show
from csplade.evaluation.quantize_ranking import FLOAT
from csplade.evaluation.quantize_report import run
from csplade.evaluation.quantize_worker import Precision

FP32 = Precision("fp32", dtype="float32")
INT8 = Precision("int8 + head", "int8", head=True)
BROKEN = Precision("int3", "int3")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "Tea", "text": "leaves in hot water"}\n'
        '{"_id": "d2", "text": "coffee beans ground and brewed"}\n'
        '{"_id": "d3", "text": "a river of cold water"}\n'
    )
    (folder / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "hot tea"}\n{"_id": "q2", "text": "cold water"}\n'
    )
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq2\td3\t1\n")
    return load_dataset(folder)


@pytest.fixture(scope="module")
def measured(tiny_model, dataset, tmp_path_factory):
    """A report, its work folder and what progress was told; each precision costs a process, so it
    is measured once.
    """
    work, told = tmp_path_factory.mktemp("report") / "work", []
    report = run(
        str(tiny_model),
        dataset,
        work,
        threads=1,
        precisions=(FP32, INT8, BROKEN),
        progress=lambda *step: told.append(step),
    )
    return report, work, told


@pytest.fixture
def again(tiny_model, dataset, measured, tmp_path):
    """Runs once more over a copy of the work folder, with another python for the workers."""
    shutil.copytree(measured[1], tmp_path / "work")

    def make(*precisions, python="/nowhere/python", collection=dataset, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quantize_report.sys, "executable", str(python))
            return run(
                str(tiny_model),
                collection,
                tmp_path / "work",
                threads=1,
                precisions=precisions,
                **options,
            )

    return make


def test_rows_of_each_precision_and_what_cannot_be_done(measured):
    report, _, told = measured
    exact, packed, broken = report.rows
    assert exact.cosine == pytest.approx(1.0)
    assert exact.qualities[FLOAT].overlap == 1.0
    assert 0.8 < packed.cosine < 1.0
    assert packed.cost.weight_bytes < exact.cost.weight_bytes
    assert packed.cost.peak_bytes > packed.cost.weight_bytes
    assert all(
        0 <= quality.ndcg <= 1 for row in (exact, packed) for quality in row.qualities.values()
    )
    assert broken.cost is None
    assert "quantization is 'int3'" in broken.reason
    assert ("fp32", 5, 5) in told


def test_tables_json_and_plots(measured, tmp_path):
    report = measured[0]
    text = quantize_show.markdown(report)
    assert "| int8 + head |" in text
    assert "- int3: not measured: quantization is 'int3'" in text
    values = json.loads(json.dumps(report.to_json()))
    assert values["rows"][0]["qualities"][FLOAT]["overlap"] == 1.0
    pytest.importorskip("matplotlib")
    for name in ("plot.svg", "plot.png"):
        quantize_show.plot(report, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000


def test_a_second_run_measures_only_what_is_missing(measured, again):
    assert again(FP32, INT8).rows == measured[0].rows[:2]
    with pytest.raises(FileNotFoundError):
        again(FP32, dataclasses.replace(INT8, name="other"))
    with pytest.raises(IncompatibleError, match="was started with seed 0, now it is 1"):
        again(FP32, seed=1)


def test_a_worker_that_is_killed_is_no_finished_row(again, tmp_path):
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    other = dataclasses.replace(INT8, name="other")
    _, row = again(FP32, other, python=killer).rows
    assert row.reason == "killed by signal 9; out of memory?"
    assert not (tmp_path / "work" / "other.json").exists()
    with pytest.raises(
        UnavailableError, match="other, which the others are compared with, failed: killed"
    ):
        again(other, python=killer)


def test_a_pool_holds_what_is_judged(dataset):
    ids, texts, corpus = quantize_report._pool(dataset, 2, 0)
    assert (ids, len(texts), corpus) == (["d1", "d3"], 2, 3)
    assert quantize_report._pool(dataset, 9, 0)[0] == ["d1", "d2", "d3"]
    with pytest.raises(InputError, match="documents is 1, must be at least 2, the judged ones of"):
        quantize_report._pool(dataset, 1, 0)


def test_integers_and_floats_rank_by_score_then_arrival():
    documents = SparseBatch.from_rows(
        [([1, 2], [1.0, 1.0]), ([2], [2.0]), ([9], [5.0]), ([1, 2], [1.0, 1.0])]
    )
    queries = SparseBatch.from_rows([([1, 2], [1.0, 1.0]), ([7], [1.0])])
    for kind in (np.float32, np.int32):
        tops = quantize_ranking.rank(
            documents, documents.weights.astype(kind), queries, queries.weights.astype(kind)
        )
        assert [top.tolist() for top in tops] == [[0, 1, 3], []]


def test_coarse_impacts_clip_and_are_counted():
    documents = SparseBatch.from_rows([([1, 2], [1.5, 0.2]), ([2], [3.0])])
    queries = SparseBatch.from_rows([([2], [1.0])])
    ranked = quantize_ranking.rank_all(documents, queries)
    assert ranked["8 bits, 0.005"][1] == 2  # 300 and 600 steps
    assert ranked["8 bits, 0.02"][1] == 0
    assert [top.tolist() for top in ranked["4 bits, largest / 15"][0]] == [[1, 0]]


def test_plots_need_a_known_format_and_matplotlib(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"must end in \.svg or \.png"):
        quantize_show.require_plotting(tmp_path / "plot.jpeg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnavailableError, match=r"csplade\[report\]"):
        quantize_show.require_plotting(tmp_path / "plot.svg")


def test_a_finished_report_deletes_what_it_kept_and_nothing_else(measured, again, tmp_path):
    work = tmp_path / "work"
    again(FP32)
    (work / "mine.txt").write_text("mine")
    quantize_report.forget(work)
    assert (work / "mine.txt").read_text() == "mine"
    assert not (work / "settings.json").exists()
    assert not (work / "fp32.json").exists()


def test_a_folder_that_no_report_made_is_not_used(again, tmp_path):
    work = tmp_path / "work"
    for left in work.glob("*"):
        left.unlink()
    (work / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="no job made it"):
        again(FP32)
    assert [one.name for one in work.iterdir()] == ["thesis.txt"]


def test_other_data_is_not_resumed(again, dataset):
    changed = dataclasses.replace(dataset, qrels={"q1": {"d2": 1}, "q2": {"d3": 1}})
    with pytest.raises(IncompatibleError, match="started with data "):
        again(FP32, collection=changed)


def test_output_files_are_checked_first(dataset, tmp_path, monkeypatch):
    from csplade.cli.quantize import quantize_report as command

    for option in ("json_file", "plot"):
        path = tmp_path / "there.svg"
        path.write_text("mine")
        with pytest.raises(InputError, match="exists already; delete it or write elsewhere"):
            command(
                dataset.folder, model="nowhere", **{"json_file": None, "plot": None, option: path}
            )
        assert path.read_text() == "mine"
