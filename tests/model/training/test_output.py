"""Training never writes over what it did not write, and repeats nothing."""

import shutil

import numpy as np
import pytest

from csplade.core.errors import IncompatibleError, InputError
from csplade.model import Encoder
from csplade.model.training.adapt import adapt
from csplade.model.training.calibrate import calibrate
from csplade.model.training.data import Collection, packed
from csplade.model.training.mine import mine
from csplade.model.training.output import Output
from csplade.model.training.start import start
from csplade.model.training.teachers import Bm25
from csplade.model.training.trainer import Schedule

TEXTS = [f"all about the {word}" for word in ("gull", "heron", "finch", "crane")] * 8
SCHEDULE = Schedule(steps=2, rate=1e-3, batch=2, rank=4)


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("phase", [adapt, calibrate])
def test_a_folder_of_the_users_stays(tiny_model, tmp_path, phase):
    out = tmp_path / "thesis"
    for folder in (out, tmp_path / "thesis.work", tmp_path / "thesis.part"):
        folder.mkdir()
        (folder / "chapter.tex").write_text("ten years of work")
    with pytest.raises(InputError, match="thesis: is there already, and this job did not write it"):
        phase(tiny_model, TEXTS, out, SCHEDULE, length=16)
    (out / "chapter.tex").unlink()
    out.rmdir()
    with pytest.raises(InputError, match=r"thesis.work: is there already, and no job made it"):
        phase(tiny_model, TEXTS, out, SCHEDULE, length=16)
    (tmp_path / "thesis.work" / "chapter.tex").unlink()
    assert phase(tiny_model, TEXTS, out, SCHEDULE, length=16)
    assert (tmp_path / "thesis.part" / "chapter.tex").read_text() == "ten years of work"


def test_a_job_is_done_once_and_only_with_what_it_was_started_with(
    tiny_model, tiny_model_of, tmp_path
):
    out = tmp_path / "adapted"
    assert adapt(tiny_model, TEXTS, out, SCHEDULE, length=16)
    before = contents(tmp_path)
    assert not adapt(tiny_model, TEXTS, out, SCHEDULE, length=16)
    assert contents(tmp_path) == before
    other = tiny_model_of(logit_scale=0.7)
    for model, texts, schedule, length, named in (
        (
            tiny_model,
            TEXTS,
            Schedule(steps=3, rate=1e-3, batch=2, rank=4),
            16,
            "steps 2, now it is 3",
        ),
        (tiny_model, TEXTS, SCHEDULE, 8, "length 16, now it is 8"),
        (tiny_model, TEXTS[1:], SCHEDULE, 16, "with texts"),
        (other, TEXTS, SCHEDULE, 16, "with model"),
    ):
        with pytest.raises(IncompatibleError, match=named):
            adapt(model, texts, out, schedule, length=length)
    assert contents(tmp_path) == before
    shutil.rmtree(out)
    with pytest.raises(InputError, match="its job ended, and adapted is gone; delete"):
        adapt(tiny_model, TEXTS, out, SCHEDULE, length=16)


def test_an_interrupted_job_resumes_only_with_what_it_was_started_with(tmp_path):
    Output(tmp_path / "out", "adapt", {"rate": 0.1}).open_work()
    Output(tmp_path / "out", "adapt", {"rate": 0.1}).open_work()
    with pytest.raises(
        IncompatibleError, match=r"out.work: .* started with rate 0.1, now it is 0.2"
    ):
        Output(tmp_path / "out", "adapt", {"rate": 0.2}).open_work()
    with pytest.raises(
        IncompatibleError, match="started with phase 'adapt', now it is 'calibrate'"
    ):
        Output(tmp_path / "out", "calibrate", {"rate": 0.1}).open_work()


def test_a_failure_leaves_no_result(tmp_path):
    output = Output(tmp_path / "out", "idf", {})

    def write_half():
        with output.write() as aside:
            (aside / "half").write_text("written")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_mining_is_done_once_and_keeps_what_it_did_not_write(tmp_path):
    words = ["gull", "heron", "finch", "crane", "stork", "raven"]
    passages = {f"p{i}": f"all about the {word}" for i, word in enumerate(words)}
    queries = {f"q{i}": f"what is a {word}" for i, word in enumerate(words)}
    judged = {f"q{i}": [f"p{i}"] for i in range(len(words))}
    collection = Collection("birds", passages, queries, judged)
    out = tmp_path / "mined.jsonl"
    out.write_text("notes")
    with pytest.raises(InputError, match="this job did not write it"):
        mine(collection, out, [Bm25()], depth=3)
    assert out.read_text() == "notes"
    out.unlink()
    assert mine(collection, out, [Bm25()], depth=3)
    assert not mine(collection, out, [Bm25()], depth=3)
    with pytest.raises(IncompatibleError, match="was made with depth 3, now it is 2"):
        mine(collection, out, [Bm25()], depth=2)
    fewer = Collection("birds", passages, queries, {"q0": ["p0"]})
    with pytest.raises(IncompatibleError, match="was made with collection"):
        mine(fewer, out, [Bm25()], depth=3)


def test_what_cannot_be_trained_is_one_line(tiny_model, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(
        InputError, match=r"length: 5000 needs 5,000 positions, the model has 1,024"
    ):
        adapt(tiny_model, TEXTS, out, SCHEDULE, length=5000)
    with pytest.raises(
        InputError, match=r"length: 900 tokens a row, but the texts have \d+ in all"
    ):
        adapt(tiny_model, TEXTS[:1], out, SCHEDULE, length=900)
    with pytest.raises(InputError, match="none of them has a token"):
        calibrate(tiny_model, ["", " "], out, SCHEDULE)
    with pytest.raises(
        InputError, match="layers: 300 is not possible, the base has 30; allowed 1 to 30"
    ):
        start(TEXTS, out, layers=300)
    with pytest.raises(InputError, match=r"no term stands in 2 of the 1 texts"):
        start(TEXTS[:1], out, layers=2)
    with pytest.raises(InputError, match="no texts to count terms in"):
        start([], out, layers=2)
    assert list(tmp_path.iterdir()) == []
    assert isinstance(packed(iter([[1, 2, 3]]), 4, 0), np.ndarray)


def test_start_is_done_once(tmp_path):
    out = tmp_path / "start"
    assert start(TEXTS, out, layers=1)
    assert not start(TEXTS, out, layers=1)
    with pytest.raises(IncompatibleError, match="was made with layers 1, now it is 2"):
        start(TEXTS, out, layers=2)
    assert Encoder.from_pretrained(out, self_test=False).manifest.layers == 1
