import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from csplade.bench import gpu_check

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]

# Distributions of a GPU machine that a rehearsal may import, with what they require.
PRESENT = (
    "torch", "triton", "numpy", "pytest", "pytest-timeout", "hypothesis", "numba", "safetensors",
    "transformers", "accelerate", "peft", "scipy", "scikit-learn", "sentencepiece", "psutil",
)  # fmt: skip
# Seen missing there, though our versions of the above ask for some of them.
ABSENT = {"pydantic", "pydantic-core", "pydantic-settings"}
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}: a GPU machine lacks it")

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """The environment of a Python that has the packages of a GPU machine and no others."""
    folder = tmp_path_factory.mktemp("machine")
    allowed: set[str] = {"csplade"}
    waiting = list(PRESENT)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in allowed:
            continue
        allowed.add(name)
        waiting += [
            requirement.name
            for requirement in map(Requirement, _requires(name))
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    blocked = {
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(name) for name in names} & (allowed - ABSENT)
    }
    assert {"pydantic", "grpc", "grpc_health", "prometheus_client", "ray"} <= blocked
    (folder / "sitecustomize.py").write_text(f"BLOCKED = {blocked!r}\n{BLOCKER}")
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    plugins = {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "pytest_timeout",
        "HYPOTHESIS_NO_PLUGINS": "1",
    }
    return kept | plugins | {"PYTHONPATH": str(folder)}


def _requires(name):
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def command(out, *arguments):
    script = str(ROOT / "bench" / "gpu_check.py")
    return [sys.executable, script, "--rehearse", "--out", str(out), *arguments]


def check(out, environment, *arguments):
    return subprocess.run(
        command(out, *arguments),
        cwd=out,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_rehearsal_of_every_call_leaves_rows_and_a_page(tmp_path, machine, call):
    done = check(tmp_path, machine, "--call", str(call))
    logs = {path.name: path.read_text()[-2000:] for path in tmp_path.glob("*.log")}
    assert done.returncode == 0, (done.stdout, done.stderr, logs)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["rehearsal"] is True
    expected = [name for name, stage in gpu_check.STAGES.items() if stage.call == call]
    assert list(results["stages"]) == expected
    for name, stage in results["stages"].items():
        assert not stage["ending"]
        assert stage["rows"] or name == "tests"
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines() if stage["rows"] else []
        assert [json.loads(line) for line in lines] == stage["rows"]
    page = (tmp_path / "results.md").read_text()
    assert "a rehearsal: no numbers of a GPU" in page
    assert all(f"## {name}: passed" in page for name in expected)
    if call == 1:
        collected = (tmp_path / "tests.log").read_text()
        for module in ("score/test_search", "head/test_head", "runtime/test_transfer"):
            assert f"tests/kernels/{module}.py" in collected
        assert "tests/index/read/test_device.py" in collected
        assert "error" not in collected.lower()


def test_every_call_fits_its_ten_minutes():
    for call in (1, 2, 3, 4):
        stages = [stage for stage in gpu_check.STAGES.values() if stage.call == call]
        assert 0 < sum(stage.seconds for stage in stages) <= 570


def test_a_stage_that_is_killed_keeps_the_rows_it_measured(tmp_path, machine):
    with subprocess.Popen(
        command(tmp_path, "--stages", "passages"),
        env=machine,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        rows = tmp_path / "passages.jsonl"
        deadline = time.monotonic() + 150
        while not (rows.is_file() and rows.read_text().endswith("\n")):
            assert time.monotonic() < deadline, (tmp_path / "passages.log").read_text()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    first = json.loads(rows.read_text().splitlines()[0])
    assert first["documents"] == 300
    rows.write_text(rows.read_text() + '{"batch": 1, "dev')  # a write that was cut off
    assert json.loads(gpu_check._whole_lines(rows)[0]) == first


def test_a_stage_that_gets_no_time_is_reported(tmp_path, machine):
    done = check(tmp_path, machine, "--stages", "passages", "--seconds", "0")
    assert done.returncode == 1
    stage = json.loads((tmp_path / "results.json").read_text())["stages"]["passages"]
    assert stage["ending"].startswith("not started")
    assert "## passages: not started" in (tmp_path / "results.md").read_text()


def test_unknown_stages_are_rejected(tmp_path, machine):
    done = check(tmp_path, machine, "--stages", "passages,nothing")
    assert done.returncode == 2
    assert "unknown stages nothing" in done.stderr
