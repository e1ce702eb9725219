"""The planner against what is really built, and ``serve`` against machines that are too small."""

import json
from pathlib import Path

import pytest
import yaml

from csplade.bench import capacity, capacity_yaml, synthetic
from csplade.bench import published_times as published
from csplade.bench.capacity import MODELS, Question, make_plan
from csplade.core.errors import InputError
from csplade.index import Index, IndexManifest
from csplade.service import memory
from csplade.service import settings as config

GIB = 2**30
BENCHMARKS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "index"
    synthetic.build(path, 20_000, 40, 7, lambda *_: None)
    return path


def test_index_bytes_are_those_of_a_built_one_within_a_thousandth(built):
    with Index.open(built, threads=1) as index:
        manifest = index.manifest
        columns = index.cpu.prepare()
    size = 20_000, manifest.postings / 20_000, manifest.vocabulary_size
    predicted = capacity.index_bytes(*size)
    assert predicted["postings"] == 3 * manifest.postings
    assert sum(predicted.values()) == pytest.approx(manifest.bytes, rel=1e-3)
    assert capacity.column_bytes(*size) == pytest.approx(columns, rel=0.25)


@pytest.mark.parametrize("dense_documents", [0, 10**9])
def test_bytes_on_a_gpu_are_those_of_a_loaded_index(built, monkeypatch, dense_documents):
    monkeypatch.setattr(capacity, "DENSE_DOCUMENTS", dense_documents)
    monkeypatch.setattr("csplade.kernels.score.layout.DENSE_DOCUMENTS", dense_documents)
    with Index.open(built, threads=1) as index:
        manifest = index.manifest
        index.to("cpu")
        loaded = index.tensors.nbytes
    predicted = capacity.device_bytes(20_000, manifest.postings / 20_000, manifest.vocabulary_size)
    assert (predicted["columns"] > 0) == (dense_documents == 0)
    assert predicted["columns"] == pytest.approx(loaded["columns"], rel=0.05)
    for part in ("postings", "rows"):
        assert predicted[part] == pytest.approx(loaded[part], rel=0.01)


def test_a_real_collection_of_another_distribution_is_within_a_third(small_index):
    manifest = IndexManifest.open(small_index)
    predicted = capacity.index_bytes(
        manifest.documents // 2, manifest.postings / manifest.documents, manifest.vocabulary_size
    )
    arrays = sum(one.bytes for shard in manifest.shards for one in shard.segments)
    assert 2 * sum(predicted.values()) == pytest.approx(arrays, rel=0.33)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_model_bytes_are_those_of_a_loaded_one(tiny_model, quantization):
    import torch

    from csplade.model import Encoder
    from csplade.model.quantization import weight_bytes

    network = Encoder.from_pretrained(
        tiny_model, quantization=quantization, dtype=torch.bfloat16, self_test=False
    ).network
    shape = capacity.model_shape(str(tiny_model))
    assert shape.weight_bytes(quantization) == pytest.approx(weight_bytes(network), rel=0.08)


def test_the_embedded_model_is_known_as_it_is():
    from csplade.model.checkpoint import base

    config_of_base = json.loads((base.pull() / "config.json").read_text())
    known, full = MODELS["embedded"], capacity.model_shape(str(base.pull()))
    assert (known.hidden, known.intermediate, known.key_width) == (
        full.hidden,
        full.intermediate,
        full.key_width,
    )
    assert config_of_base["vocab_size"] == known.vocabulary


@pytest.mark.parametrize("figure", [published.SCORE, published.ENCODE_QUERY])
def test_measured_figures_stand_in_the_benchmarks(figure):
    sections = BENCHMARKS.read_text().split("\n## ")
    (section,) = [one for one in sections if one.startswith(figure.section + "\n")]
    assert figure.line in section.splitlines()
    assert f"| {figure.value} |" in figure.line
    if figure is published.SCORE:
        assert f"{published.SCORE_POSTINGS:,} postings read" in section
        assert (
            f"{published.SCORE_DOCUMENTS:,} documents of Poisson({published.SCORE_MEAN_TERMS})"
            in section
        )


def test_shards_grow_with_the_collection_and_nothing_is_guessed_for_a_gpu():
    small = make_plan(
        Question(8_800_000, 119, "meta-llama/Llama-3.1-8B", "nf4", gpu_memory=80 * GIB)
    )
    large = make_plan(
        Question(400_000_000, 119, "meta-llama/Llama-3.1-8B", "nf4", gpu_memory=80 * GIB)
    )
    assert (small.shards, small.together) == (1, True)
    assert large.shards > 1
    assert not large.together
    assert large.shard_bytes <= 80 * GIB
    for one in (small, large):
        assert (one.batch, one.p50, one.max_rate) == (None, None, None)
        assert any("not measured yet" in note for note in one.notes)


def test_replicas_follow_the_rate_and_the_measured_times():
    calm = make_plan(Question(300_000, 119, memory=8 * GIB, rate=1))
    busy = make_plan(Question(300_000, 119, memory=8 * GIB, rate=1000))
    assert calm.replicas == 1
    assert calm.batch == 1
    assert calm.p50 == pytest.approx(published.ENCODE_QUERY.value + published.SCORE.value, rel=0.02)
    assert busy.replicas > 1
    assert busy.replicas * busy.max_rate * capacity.TARGET_LOAD_SHARE >= 1000
    overrun = make_plan(Question(300_000, 119, memory=8 * GIB, rate=1000, replicas=1))
    assert overrun.p50 is None
    assert any("exceed what 1 replicas can answer" in note for note in overrun.notes)


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        (
            Question(10, 10, "meta-llama/Llama-3.1-8B", gpu_memory=8 * GIB),
            "take a larger one, or --quantization",
        ),
        (Question(10, 10, "no/such", memory=GIB), "must be none, a directory"),
    ],
)
def test_what_cannot_be_planned_is_rejected(question, complaint):
    with pytest.raises(InputError, match=complaint):
        make_plan(question)


def test_the_yaml_of_a_single_process_is_taken_by_its_settings(cli, tmp_path):
    out = tmp_path / "csplade.yaml"
    told = cli(
        "plan", "--documents", 10_000, "--mean-terms", 50, "--memory", 8, "--rate", 5, "--out", out
    )
    assert told.code == 0, told.err
    assert "1 shard, one per machine" in told.out
    settings = config.load(out)
    assert (settings.model.path, settings.scoring.device) == ("embedded", "cpu")
    assert out.read_text().startswith("# Made by: csplade plan --documents 10000")


@pytest.mark.parametrize("model", ["embedded", "none"])
def test_the_yaml_of_a_cluster_is_taken_by_ray_and_by_the_application(model):
    schema = pytest.importorskip("ray.serve.schema", reason="Ray is not installed")
    made = make_plan(Question(8_800_000, 119, model, memory=3 * GIB, rate=50))
    assert made.shards > 1
    text = capacity_yaml.write(made, "csplade plan")
    assert "&id" not in text
    parsed = schema.ServeDeploySchema(**yaml.safe_load(text))
    (application,) = parsed.applications
    names = [one.name for one in application.deployments]
    assert names == [
        "ingress",
        *(["encoder"] if model != "none" else []),
        *(f"shard-{i}" for i in range(made.shards)),
    ]
    config.load(None, application.args["settings"])
    from csplade.service.ray.app import RayArguments

    assert RayArguments(**application.args).index == Path("/data/index")


def test_serve_rejects_what_does_not_fit_with_the_numbers(fails, built, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 200 * 2**20)
    said = fails("serve", built, "--port", 0, "--no-metrics")
    assert said.startswith(
        f"{built}: needs 0.30 GiB of memory (segments 0.00, process 0.29), 0.20 GiB are free"
    )


def test_free_memory_is_that_of_the_machine_and_of_the_container(tmp_path):
    assert memory.available_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert memory.available_memory(tmp_path) == 4000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("3000000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    (group / "memory.max").write_text("max\n")
    assert memory.available_memory(tmp_path) == 4000 * 1024
    (group / "memory.max").write_text("4000000\n")
    assert memory.available_memory(tmp_path) == 1_500_000
