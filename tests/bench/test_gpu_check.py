import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


def check(out, *arguments):
    """As on a GPU machine: a plain Python, the package not installed as far as the script knows."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [
            sys.executable,
            str(ROOT / "bench" / "gpu_check.py"),
            "--rehearse",
            "--out",
            str(out),
            *arguments,
        ],
        cwd=out,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(400)
def test_a_rehearsal_leaves_numbers_and_a_page(tmp_path):
    done = check(tmp_path, "--stages", "machine_code,large_vocabulary")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["rehearsal"] is True
    assert {"command", "date", "card", "python", "torch", "triton"} < set(results)
    stages = results["stages"]
    assert list(stages) == ["machine_code", "large_vocabulary"]
    assert all(stage["passed"] for stage in stages.values())
    assert [one["ok"] for one in stages["machine_code"]["numbers"]] == [True]
    assert stages["large_vocabulary"]["numbers"]["repeatable"] is True
    page = (tmp_path / "results.md").read_text()
    assert "a rehearsal: no numbers of a GPU" in page
    assert "## large_vocabulary: passed" in page
    assert "128,256 terms" in page


def test_a_stage_that_does_not_come_through_is_told(tmp_path):
    done = check(tmp_path, "--stages", "passages", "--seconds", "0")
    assert done.returncode == 1
    stage = json.loads((tmp_path / "results.json").read_text())["stages"]["passages"]
    assert (stage["passed"], stage["ending"]) == (False, "stopped after 0 s")
    assert "## passages: stopped after 0 s" in (tmp_path / "results.md").read_text()


def test_a_carried_triton_goes_before_the_installed_one(tmp_path):
    carried = tmp_path / "triton"
    carried.mkdir()
    (carried / "__init__.py").write_text("__version__ = 'carried'\n")
    with tarfile.open(tmp_path / "triton.tar.xz", "w:xz") as archive:
        archive.add(carried, "triton")
    done = check(
        tmp_path,
        "--stages",
        "passages",
        "--seconds",
        "0",
        "--triton",
        str(tmp_path / "triton.tar.xz"),
    )
    assert json.loads((tmp_path / "results.json").read_text())["triton"] == "carried", done.stderr


def test_unknown_stages_are_refused(tmp_path):
    done = check(tmp_path, "--stages", "passages,nothing")
    assert done.returncode == 2
    assert "unknown stages nothing" in done.stderr
