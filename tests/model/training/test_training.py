import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from csplade.core.errors import InputError
from csplade.model import Encoder, Manifest
from csplade.model.certify import certify
from csplade.model.checkpoint.files import TABLE_FILE
from csplade.model.training.adapt import adapt
from csplade.model.training.calibrate import calibrate
from csplade.model.training.data import Collection, packed
from csplade.model.training.dev import BEST_FILE, DevSplit
from csplade.model.training.idf import train_idf
from csplade.model.training.mine import Mined, mine, read_mined
from csplade.model.training.pairs import Source
from csplade.model.training.retrieval import (
    Objective,
    Representation,
    combine_teachers,
    train_retrieval,
)
from csplade.model.training.table import train_table
from csplade.model.training.teachers import Bm25, load_teacher
from csplade.model.training.trainer import (
    LOG_FILE,
    EncoderTrainer,
    Schedule,
    Trainable,
    TrainingError,
)

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
    queries = [
        {"_id": f"q{i}", "text": f"what does a {word} need?"} for i, word in enumerate(SUBJECTS)
    ]
    for name, rows in (("corpus", passages), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = "".join(f"q{i}\tp{i}\t1\n" for i in range(len(SUBJECTS)))
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return Collection.load(folder, "train")


def logged(out, key):
    checkpoints = sorted(
        out.with_name(out.name + ".work").glob("checkpoint-*"),
        key=lambda path: int(path.name.split("-")[1]),
    )
    history = json.loads((checkpoints[-1] / "trainer_state.json").read_text())["log_history"]
    return [entry[key] for entry in history if key in entry]


def source_of(collection, folder, *teachers):
    out = folder / "mined.jsonl"
    mine(collection, out, [Bm25(), *teachers], depth=6)
    return Source(collection, read_mined(out, collection), 1.0)


def test_the_phases_learn_and_give_a_model_that_loads(tiny_model, collection, tmp_path):
    texts = list(collection.passages.values()) * 20
    adapted, calibrated, trained = (
        tmp_path / "adapted",
        tmp_path / "calibrated",
        tmp_path / "trained",
    )

    adapt(
        tiny_model,
        texts,
        adapted,
        Schedule(steps=60, rate=5e-3, batch=2, rank=4),
        length=32,
        positions=40,
    )
    assert logged(adapted, "loss")[-1] < 0.9 * logged(adapted, "loss")[0]

    calibrate(
        adapted,
        texts,
        calibrated,
        Schedule(steps=60, rate=3e-3, batch=8, rank=4),
        length=24,
        other=0.05,
    )
    assert logged(calibrated, "active_terms")[-1] < 0.5 * logged(calibrated, "active_terms")[0]

    source = source_of(collection, tmp_path)
    schedule = Schedule(steps=60, rate=4e-3, batch=8, rank=4)
    train_retrieval(calibrated, [source], trained, schedule, Objective())
    assert logged(trained, "nce")[-1] < 0.9 * logged(trained, "nce")[0]

    certify(trained)
    encoder = Encoder.from_pretrained(trained)
    assert Manifest.load(trained).weights_hash != Manifest.load(adapted).weights_hash
    assert len(encoder.encode_query(["what does a river need?"]).terms) > 0
    with pytest.raises(InputError, match="rank 4, asked for 8"):
        train_retrieval(
            trained, [source], tmp_path / "other", replace(schedule, steps=1, rank=8), Objective()
        )


def test_lexical_queries_train_documents_and_their_table(tiny_model, collection, tmp_path):
    lexical, calibrated, trained = (
        tmp_path / name for name in ("lexical", "calibrated", "trained")
    )
    texts = list(collection.passages.values()) * 20
    train_idf(tiny_model, lexical, texts)
    calibrate(lexical, texts, calibrated, Schedule(steps=40, rate=3e-3, batch=8, rank=4), length=24)
    source = source_of(collection, tmp_path)
    objective = Objective(kl=0.5, nce=0.5, teachers=("bm25",), temperature=2.0, negatives=3)
    train_retrieval(
        calibrated, [source], trained, Schedule(steps=40, rate=3e-3, batch=6, rank=4), objective
    )
    assert logged(trained, "kl")[-1] < 0.9 * logged(trained, "kl")[0]
    before, after = (load_file(folder / TABLE_FILE)["weight"] for folder in (calibrated, trained))
    assert not torch.equal(before, after)
    assert (after >= 0).all()
    certify(trained)
    assert len(Encoder.from_pretrained(trained).encode_query(["a river"]).terms) > 0


def test_a_table_learns_which_terms_tell_passages_apart(tiny_model, collection, tmp_path):
    lexical, out = tmp_path / "lexical", tmp_path / "table"
    train_idf(tiny_model, lexical, list(collection.passages.values()), counts=True, prior=2.0)
    mined = [
        Mined(
            query,
            positives,
            negatives,
            {"judge": np.eye(1, len(negatives) + 1, dtype=np.float32)[0] * 9},
        )
        for query, positives in collection.positives.items()
        for negatives in [[passage for passage in collection.passages if passage not in positives]]
    ]
    told = []
    train_table(
        lexical,
        [Source(collection, mined, 1.0)],
        out,
        ["judge"],
        progress=lambda what, done, of: told.append(what),
    )
    before, after = (load_file(folder / TABLE_FILE)["weight"] for folder in (lexical, out))
    assert told == ["counting"] * 2 + ["steps"] * 80
    certify(out)
    encoder = Encoder.from_pretrained(out)
    asked = encoder.tokenize(list(collection.queries.values()), "query").ids
    common = np.unique(np.concatenate(asked))
    common = [token for token in common if all(token in ids for ids in asked)]
    telling = np.setdiff1d(np.concatenate(asked), common)
    assert (after[telling] > before[telling] * 0.99).all()
    assert (after[telling] > before[telling] * 1.01).any()
    unseen = np.setdiff1d(np.arange(len(before)), np.concatenate(asked))
    torch.testing.assert_close(after[unseen], before[unseen])
    with pytest.raises(InputError, match="has no scores of 'other', only"):
        train_table(lexical, [Source(collection, mined, 1.0)], tmp_path / "other", ["other"])
    with pytest.raises(InputError, match="its queries are not looked up"):
        train_table(tiny_model, [Source(collection, mined, 1.0)], tmp_path / "other", ["judge"])


def test_a_dense_twin_learns(tiny_model, collection, tmp_path):
    out = tmp_path / "dense"
    objective = Objective(representation="dense", temperature=0.05)
    source = source_of(collection, tmp_path)
    train_retrieval(
        tiny_model, [source], out, Schedule(steps=40, rate=3e-3, batch=8, rank=4), objective
    )
    assert logged(out, "nce")[-1] < 0.9 * logged(out, "nce")[0]


def test_adaptation_revives_a_model_whose_vectors_are_all_zero(tiny_model_of, collection, tmp_path):
    dead = tiny_model_of()
    replace(Manifest.load(dead), logit_shift=-2.0, golden=()).save(dead)
    texts = list(collection.passages.values()) * 20
    source = source_of(collection, tmp_path)
    schedule = Schedule(steps=30, rate=4e-3, batch=8, rank=4, save_every=10)
    still_dead, adapted, alive = (tmp_path / name for name in ("still-dead", "adapted", "alive"))

    with pytest.raises(TrainingError, match="every vector is empty: the model collapsed"):
        train_retrieval(dead, [source], still_dead, schedule, Objective())
    assert not still_dead.exists()
    assert set(logged(still_dead, "document_terms")) == {0.0}

    adapt(
        dead,
        texts,
        adapted,
        Schedule(steps=120, rate=8e-3, batch=2, rank=4),
        length=32,
        positions=40,
    )
    train_retrieval(adapted, [source], alive, schedule, Objective())
    assert logged(alive, "document_terms")[-1] > 0
    assert logged(alive, "nce")[-1] < logged(still_dead, "nce")[-1]


def test_a_loss_that_is_not_finite_stops_training(tiny_model, collection, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "csplade.model.training.losses.info_nce", lambda *_: torch.tensor(torch.nan)
    )
    source, schedule = (
        source_of(collection, tmp_path),
        Schedule(steps=5, rate=1e-3, batch=4, rank=4),
    )
    with pytest.raises(TrainingError, match=r"step 0: the loss is nan: training blew up.*--rate"):
        train_retrieval(tiny_model, [source], tmp_path / "out", schedule, Objective())
    assert not (tmp_path / "out").exists()


class Interrupted(Exception):
    pass


class Interrupt(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 5:
            raise Interrupted


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(
    tiny_model, collection, tmp_path, monkeypatch
):
    source = source_of(collection, tmp_path)
    schedule = Schedule(steps=8, rate=1e-3, batch=4, rank=4, save_every=2)
    train_retrieval(tiny_model, [source], tmp_path / "whole", schedule, Objective())

    out = tmp_path / "broken"
    with monkeypatch.context() as patched:
        patched.setattr(EncoderTrainer, "__init__", interrupting(EncoderTrainer.__init__))
        with pytest.raises(Interrupted):
            train_retrieval(tiny_model, [source], out, schedule, Objective())
    assert not out.exists()
    train_retrieval(tiny_model, [source], out, schedule, Objective())
    for name in ("adapter_model.safetensors", "head.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert (out.with_name("broken.work") / LOG_FILE).read_text().startswith("step,name,value\n")


def interrupting(init):
    def with_interrupt(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.add_callback(Interrupt())

    return with_interrupt


def test_the_best_weights_on_the_dev_split_are_kept_and_training_stops_early(
    tiny_model, collection, tmp_path
):
    source = source_of(collection, tmp_path)
    relevant = np.eye(len(SUBJECTS), dtype=bool)
    dev = DevSplit(
        "subjects", list(collection.queries.values()), list(collection.passages.values()), relevant
    )
    # At a rate that ruins the model no look is better than the first.
    schedule = Schedule(steps=40, rate=1.0, batch=4, rank=4, evaluate_every=2, patience=2)
    out = tmp_path / "out"
    train_retrieval(tiny_model, [source], out, schedule, Objective(), [dev])
    looks = (out.with_name("out.work") / LOG_FILE).read_text()
    steps = [int(line.split(",")[0]) for line in looks.splitlines() if ",dev," in line]
    assert steps
    assert steps[-1] < 40
    best = load_file(out.with_name("out.work") / BEST_FILE)
    kept = load_file(out / "head.safetensors")["bias"]
    assert torch.equal(kept, best["bias"].to(torch.float16))


def test_ndcg_of_a_dev_split_by_hand():
    relevant = np.array([[True, False, True], [False, True, False], [True, False, False]])
    split = DevSplit("x", ["a", "b", "c"], ["p", "q", "r"], relevant)
    scores = np.array([[3, 2, 1], [3, 2, 1], [0, 0, 0]], dtype=np.float32)
    first = (1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    assert split.ndcg(scores) == pytest.approx((first + 1 / np.log2(3) + 0) / 3)


def test_mined_candidates_are_never_relevant_and_are_scored_by_all_teachers(
    tiny_model, collection, tmp_path
):
    out = tmp_path / "mined.jsonl"
    own = load_teacher(str(tiny_model))
    mine(collection, out, [Bm25(), own], depth=5)
    rows = read_mined(out, collection)
    assert [row.query for row in rows] == list(collection.positives)
    encoder = Encoder.from_pretrained(tiny_model)
    for row in rows:
        assert row.positives == collection.positives[row.query]
        assert row.negatives
        assert not set(row.negatives) & set(row.positives)
        assert set(row.scores) == {"bm25", own.name}
    row = rows[3]
    query = dict(zip(*encoder.encode_query([collection.queries[row.query]]).row(0), strict=True))
    passages = encoder.encode_document([collection.passages[passage] for passage in row.candidates])
    by_hand = [
        sum(query.get(t, 0.0) * w for t, w in zip(*passages.row(i), strict=True))
        for i in range(len(passages))
    ]
    np.testing.assert_allclose(row.scores[own.name], by_hand, rtol=1e-2)
    assert not out.with_name("mined.jsonl.work").exists()


def test_mining_goes_on_where_it_was_stopped(collection, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    monkeypatch.setattr("csplade.model.training.mine.CHUNK", 4)
    mine(collection, whole, [Bm25()], depth=5)

    def stop(what, done, of):
        if what == "queries" and done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine(collection, broken, [Bm25()], depth=5, progress=stop)
    assert not broken.exists()
    with open(tmp_path / "broken.jsonl.work" / "rows.jsonl", "a") as file:
        file.write('{"query": "half a li')
    asked = []
    mine(collection, broken, [Bm25()], depth=5, progress=lambda what, done, of: asked.append(done))
    assert broken.read_bytes() == whole.read_bytes()
    assert asked == [12]


def test_broken_or_foreign_mined_files_are_refused(collection, tmp_path):
    path = tmp_path / "mined.jsonl"
    for line, message in (
        ('{"query": "q1"}', "not a line of a mined file"),
        (
            '{"query": "q1", "positives": ["p1"], "negatives": ["p99"], "scores": {}}',
            "'p99' is not in subjects",
        ),
        (
            '{"query": "q1", "positives": ["p1"], "negatives": ["p2"], "scores": {"bm25": [1.0]}}',
            "each of 2",
        ),
        ("", "has no queries"),
    ):
        path.write_text(line + "\n" if line else "")
        with pytest.raises(InputError, match=message):
            read_mined(path, collection)
    path.unlink()
    source = source_of(collection, tmp_path)
    objective = Objective(kl=1.0, teachers=("oracle",))
    with pytest.raises(InputError, match=r"no scores of 'oracle', only \['bm25'\]"):
        train_retrieval(
            tmp_path, [source], tmp_path / "out", Schedule(steps=1, rate=1e-3, batch=2), objective
        )


def test_objectives_that_teach_nothing_are_refused():
    for values, message in (
        ({"nce": 0.0}, "nothing would be learned"),
        ({"kl": 1.0}, "need a teacher"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"representation": "dens"}, "representation is 'dens', must be sparse or dense"),
        ({"document_flops": -1.0}, "document_flops is -1.0"),
    ):
        with pytest.raises(InputError, match=message):
            Objective(**values)


def test_teachers_are_weighed_by_how_well_they_tell_the_judged_passage():
    random = np.random.default_rng(0)
    mined = []
    for i in range(200):
        good, noise = (
            random.normal(size=8).astype(np.float32),
            random.normal(size=8).astype(np.float32),
        )
        good[0] += 2
        scores = {"good": good, "noise": 100 * noise}
        mined.append(Mined(f"q{i}", ["a"], list("bcdefgh"), scores))
    weights = combine_teachers(mined, ["good", "noise"])
    assert weights[0] == pytest.approx(
        2.0, rel=0.25
    )  # log-odds of a shift by 2 between unit normals
    assert abs(weights[1]) * 100 < 0.25


def test_teachers_are_weighed_on_all_sources():
    random = np.random.default_rng(1)

    def queries(teacher):  # of this source, which only that teacher can judge
        made = []
        for i in range(5000):
            scores = {name: random.normal(size=6).astype(np.float32) for name in ("left", "right")}
            scores[teacher][0] += 2
            made.append(Mined(f"{teacher}{i}", ["a"], list("bcdef"), scores))
        return made

    left, right = combine_teachers(
        [*queries("left"), *queries("right")], ["left", "right"]
    ).tolist()
    assert right == pytest.approx(left, rel=0.2)
    with pytest.raises(InputError, match="none of 1 queries"):
        combine_teachers([Mined("q", ["a"], [], {"left": np.ones(1, np.float32)})], ["left"])


def test_groups_of_like_length_keep_the_order_of_texts(tiny_model):
    trainable = Trainable.load(tiny_model, Schedule(steps=1, rate=1e-3, batch=1, rank=4))
    encode = Representation(trainable, "sparse").documents
    texts = [torch.randint(2, 300, (length,)) for length in (3, 40, 1, 17, 9)]
    with torch.inference_mode():
        together = encode(texts)
        for row, text in enumerate(texts):
            torch.testing.assert_close(together[row], encode([text])[0], rtol=5e-2, atol=5e-2)


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
