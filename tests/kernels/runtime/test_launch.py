"""Launches and events happen on the device of their tensors; nothing is compiled after warm-up."""

import ast
import json
import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from csplade.kernels.runtime import launch

ROOT = Path(__file__).parents[3]
PACKAGES = ("kernels", "model", "index", "engine", "bench")


def guarded(tree: ast.AST) -> set[int]:
    """Lines inside ``with on_device(...)``."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and any(
            isinstance(item.context_expr, ast.Call)
            and getattr(item.context_expr.func, "id", "") == "on_device"
            for item in node.items
        ):
            lines |= set(range(node.lineno, node.end_lineno + 1))
    return lines


def needs_guard(node: ast.AST) -> bool:
    """Say whether a call acts on the current device: a launch, or an event without a stream."""
    if not isinstance(node, ast.Call):
        return False
    launched = isinstance(node.func, ast.Subscript) and ast.unparse(node.func.value).endswith(
        "_kernel"
    )
    here = isinstance(node.func, ast.Attribute) and node.func.attr in (
        "record", "current_stream", "Stream", "CUDAGraph",
    )  # fmt: skip
    return launched or (here and not node.args and not node.keywords)


@pytest.mark.parametrize("package", PACKAGES)
def test_launches_and_events_are_on_the_device_of_their_tensors(package):
    wrong, found = [], 0
    for path in sorted((ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = guarded(tree)
        for node in filter(needs_guard, ast.walk(tree)):
            found += 1
            if node.lineno not in inside:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:60]}")
    assert not wrong
    assert found or package != "kernels"


def test_no_kernel_is_compiled_after_the_warm_up():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("specializations.py"))],
        env=launch.compiled_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["later"] == []
    assert len(found["launched"]) > 1000
    search = ["plan_kernel", "score_kernel", "collect_kernel", "pick_kernel", "expand_kernel"]
    assert found["per_search"] == [[*search, "pick_kernel"]] * 4
    # Two shards, of one segment each and of four with gaps and short blocks.
    assert found["per_index"] == [[*search, "pick_kernel"] * 2] * 2
    kernels = Counter(found["warmed"])
    assert set(kernels) == set(found["launched"])


def gpu(monkeypatch, *, capability=(9, 0), hip=None):
    """Pretend that torch has a GPU."""
    monkeypatch.setattr(launch, "triton", SimpleNamespace())
    monkeypatch.setattr(launch, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    launch._gpu_support.cache_clear()
    launch._warn.cache_clear()


@pytest.fixture(autouse=True)
def _forget_devices():
    yield
    launch._gpu_support.cache_clear()


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ({}, ""),
        ({"capability": (8, 6)}, ""),
        ({"capability": (7, 5)}, "a card is sm_75; kernels need sm_80 or newer"),
        (
            {"capability": (9, 4), "hip": "6.2"},
            "a card is an AMD GPU; kernels are built for NVIDIA",
        ),
    ],
)
def test_devices_run_kernels_or_torch_replaces_them_with_one_line(
    monkeypatch, caplog, card, reason
):
    gpu(monkeypatch, **card)
    device = torch.device("cuda", 0)
    assert launch.triton_support(device).reason.startswith(reason)
    assert bool(launch.triton_support(device)) == (not reason)
    tensor = SimpleNamespace(is_cuda=True, device=device)
    with caplog.at_level(logging.WARNING):
        assert [launch.use_triton(tensor) for _ in range(3)] == [not reason] * 3
    assert [reason in line for line in caplog.messages] == [True] * bool(reason)


def test_other_devices_and_modes_say_why_not(monkeypatch):
    gpu(monkeypatch)
    assert "TRITON_INTERPRET=1" in launch.triton_support(torch.device("cpu")).reason
    assert "not on mps" in launch.triton_support(torch.device("mps")).reason
    monkeypatch.setattr(launch, "INTERPRETED", True)
    assert launch.triton_support(torch.device("cpu"))
    assert "interprets" in launch.triton_support(torch.device("cuda", 0)).reason
    monkeypatch.setattr(launch, "triton", None)
    assert "not installed" in launch.triton_support(torch.device("cpu")).reason
