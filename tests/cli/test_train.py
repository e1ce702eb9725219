"""``csplade train``: options reach the training, standard output has the result alone, bad input is
told in one line.
"""

import json

import pytest

from csplade.model import Encoder, Manifest
from csplade.model.training.trainer import LOG_FILE

SMALL = ("--steps", 2, "--batch", 4, "--rank", 4, "--document-tokens", 16)


@pytest.fixture
def folder(tmp_path):
    """A BEIR folder of eight passages, each the answer to one question."""
    folder, words = (
        tmp_path / "birds",
        ["gull", "heron", "finch", "crane", "stork", "raven", "robin", "eagle"],
    )
    (folder / "qrels").mkdir(parents=True)
    passages = [
        {"_id": f"p{i}", "title": "", "text": f"All about the {word}"}
        for i, word in enumerate(words)
    ]
    queries = [{"_id": f"q{i}", "text": f"what is a {word}"} for i, word in enumerate(words)]
    for name, rows in (("corpus", passages), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = "".join(f"q{i}\tp{i}\t1\n" for i in range(len(words)))
    for split in ("train", "dev"):
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


@pytest.fixture
def mined(cli, folder, tmp_path):
    """Its mined candidates."""
    out = tmp_path / "mined.jsonl"
    assert cli("train", "mine", "--data", folder, "--out", out, "--depth", 4).code == 0
    return out


def test_contrastive_and_distill_share_their_options(cli, tiny_model, folder, mined, tmp_path):
    shared = ("--model", tiny_model, "--data", f"{folder}:{mined}:0.5", *SMALL, "--dev", folder)
    for command, own, logged in (
        ("contrastive", (), {"nce"}),
        ("distill", ("--teacher", "bm25", "--margin-mse", 0.1), {"nce", "kl", "margin_mse"}),
    ):
        out = tmp_path / command
        done = cli("train", command, *shared, "--out", out, *own)
        assert (done.code, done.out) == (0, f"{out}\n")
        rows = (out.with_name(f"{command}.work") / LOG_FILE).read_text().splitlines()[1:]
        assert {row.split(",")[1] for row in rows} >= logged
        assert {row.split(",")[0] for row in rows} <= {"0", "1", "2"}
        assert json.loads((out / "adapter_config.json").read_text())["r"] == 4
        assert cli("model", "certify", out).code == 0
        assert Encoder.from_pretrained(out).encode_query(["what is a gull"]).terms.size


def test_text_is_enough_to_start(cli, tiny_model, folder, tmp_path):
    adapted, calibrated, lexical = (
        tmp_path / name for name in ("adapted", "calibrated", "lexical")
    )
    short = ("--data", folder, "--steps", 2, "--batch", 2, "--length", 16, "--rank", 4)
    assert (
        cli("train", "adapt", "--model", tiny_model, *short, "--out", adapted).out == f"{adapted}\n"
    )
    assert cli("train", "calibrate", "--model", adapted, *short, "--out", calibrated).code == 0
    corpus = ("--corpus", folder / "corpus.jsonl", "--counts", "--prior", 1.5)
    assert cli("train", "idf", "--model", calibrated, *corpus, "--out", lexical).code == 0
    manifest = Manifest.load(lexical)
    assert (manifest.query_encoder, manifest.query_counts, manifest.lexical_prior) == (
        "lexical",
        True,
        1.5,
    )


@pytest.mark.parametrize(
    ("share", "complaint"),
    [
        ("", "needs FOLDER:MINED_FILE[:SHARE]"),
        (":x", "the share is 'x'"),
        (":0", "the share is '0'"),
    ],
)
def test_data_is_a_folder_a_file_and_a_share(
    fails, tiny_model, folder, mined, tmp_path, share, complaint
):
    data = f"{folder}:{mined}{share}" if share else folder
    options = ("--model", tiny_model, "--data", data, *SMALL, "--out", tmp_path / "out")
    assert complaint in fails("train", "contrastive", *options)
    assert not (tmp_path / "out").exists()


def test_mined_files_are_checked_line_by_line(fails, tiny_model, folder, mined, tmp_path):
    options = (
        "--model",
        tiny_model,
        "--data",
        f"{folder}:{mined}",
        *SMALL,
        "--out",
        tmp_path / "out",
    )
    whole = mined.read_text()
    mined.write_text(whole.replace('"p3"', '"p99"'))
    assert "p99" in fails("train", "contrastive", *options)
    mined.write_text(whole[:-20])
    assert f"{mined}:8: broken JSON line" in fails("train", "contrastive", *options)
    assert not (tmp_path / "out").exists()
