import json
from dataclasses import replace

import pytest
import torch

from csplade.errors import InputError
from csplade.model import Encoder, Manifest
from csplade.model.golden import certify
from csplade.model.training.adapt import adapt
from csplade.model.training.calibrate import calibrate
from csplade.model.training.contrastive import Source, contrastive, weights_of
from csplade.model.training.data import Collection, packed
from csplade.model.training.mine import mine, read_negatives
from csplade.model.training.trainer import TRAINED_FILE, Schedule

SUBJECTS = [
    "river",
    "engine",
    "violin",
    "glacier",
    "bakery",
    "orbit",
    "harbour",
    "loom",
    "fern",
    "ledger",
    "comet",
    "kiln",
]


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "subjects"
    (folder / "qrels").mkdir(parents=True)
    passages = [
        {
            "_id": f"p{i}",
            "title": word.title(),
            "text": f"The {word} is told of here, and what a {word} needs to work well.",
        }
        for i, word in enumerate(SUBJECTS)
    ]
    queries = [{"_id": f"q{i}", "text": f"what does a {word} need?"} for i, word in enumerate(SUBJECTS)]
    for name, rows in (("corpus", passages), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = "".join(f"q{i}\tp{i}\t1\n" for i in range(len(SUBJECTS)))
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return Collection.load(folder, "train")


def logged(out, key):
    checkpoints = sorted(
        out.with_name(out.name + ".work").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])
    )
    history = json.loads((checkpoints[-1] / "trainer_state.json").read_text())["log_history"]
    return [entry[key] for entry in history if key in entry]


def test_the_three_phases_learn_and_give_a_model_that_loads(tiny_model, collection, tmp_path):
    texts = list(collection.passages.values()) * 20
    adapted, calibrated, trained = tmp_path / "adapted", tmp_path / "calibrated", tmp_path / "trained"

    adapt(tiny_model, texts, adapted, Schedule(steps=60, rate=5e-3, batch=2, rank=4), length=32, positions=40)
    assert logged(adapted, "loss")[-1] < 0.9 * logged(adapted, "loss")[0]

    calibrate(
        adapted, texts, calibrated, Schedule(steps=60, rate=3e-3, batch=8, rank=4), length=24, other=0.05
    )
    assert logged(calibrated, "active_terms")[-1] < 0.5 * logged(calibrated, "active_terms")[0]

    mined = tmp_path / "mined.jsonl"
    mine(collection, mined, depth=6)
    source = Source(collection, read_negatives(mined), 1.0)
    contrastive(calibrated, [source], trained, Schedule(steps=60, rate=4e-3, batch=8, rank=4))
    assert logged(trained, "nce")[-1] < 0.9 * logged(trained, "nce")[0]

    certify(trained)
    encoder = Encoder.from_pretrained(trained)
    assert Manifest.load(trained).weights_hash != Manifest.load(adapted).weights_hash
    assert len(encoder.encode_query(["what does a river need?"]).terms) > 0
    with pytest.raises(InputError, match="rank 4, asked for 8"):
        contrastive(trained, [source], tmp_path / "other", Schedule(steps=1, rate=1e-3, batch=8, rank=8))


def test_training_resumes_from_its_checkpoint(tiny_model, collection, tmp_path):
    texts = list(collection.passages.values()) * 20
    out = tmp_path / "out"
    sizes = {"length": 32, "positions": 40}
    schedule = Schedule(steps=4, rate=1e-3, batch=2, rank=4)
    adapt(tiny_model, texts, out, schedule, **sizes)
    (before,) = out.with_name("out.work").glob("checkpoint-*")
    stamp = (before / TRAINED_FILE).read_bytes()
    adapt(tiny_model, texts, out, replace(schedule, steps=6), **sizes)
    assert (before / TRAINED_FILE).read_bytes() == stamp, "the first four steps were not run again"
    assert (out.with_name("out.work") / "checkpoint-6" / TRAINED_FILE).read_bytes() != stamp


def test_mined_negatives_are_never_relevant(collection, tmp_path):
    out = tmp_path / "mined.jsonl"
    mine(collection, out, depth=5)
    rows = read_negatives(out)
    assert [query for query, _, _ in rows] == list(collection.positives)
    for query, positives, negatives in rows:
        assert positives == collection.positives[query]
        assert negatives
        assert not set(negatives) & set(positives)
    out.write_text("kept\n")
    mine(collection, out, depth=5)
    assert out.read_text() == "kept\n", "a finished file is not made again"


def test_groups_of_like_length_keep_the_order_of_texts(tiny_model):
    network = Encoder.from_pretrained(tiny_model, dtype=torch.float32)._network
    texts = [torch.randint(2, 300, (length,)) for length in (3, 40, 1, 17, 9)]
    together = weights_of(network, texts)
    for row, text in enumerate(texts):
        torch.testing.assert_close(together[row], weights_of(network, [text])[0], rtol=1e-4, atol=1e-4)


def test_packing_keeps_order_and_separators():
    rows = packed(iter([[1, 2, 3], [4], [5, 6]]), 4, 0)
    assert rows.tolist() == [[1, 2, 3, 0], [4, 0, 5, 6]]


def test_collection_names_the_line_of_a_bad_judgment(collection, tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "x"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "x"}\n')
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\nq\tb\t1\n")
    with pytest.raises(InputError, match=r"train\.tsv:3: .*'b'"):
        Collection.load(tmp_path, "train")
    with pytest.raises(InputError, match=r"dev\.tsv: no such file"):
        Collection.load(tmp_path, "dev")
