import os
import platform

import torch

from csplade.core.machine import cores, hardware, peak_bytes, reset_peak_bytes


def test_the_hardware_line_names_cores_and_versions():
    line = hardware()
    assert f"Python {platform.python_version()}" in line
    assert f"torch {torch.__version__}" in line
    assert " cores, " in line
    assert "\n" not in line
    assert hardware(torch.device("cpu")) == line


def test_the_peak_of_memory_is_counted_anew():
    big = bytearray(2**28)
    before = peak_bytes()
    assert before >= 2**28
    del big
    reset_peak_bytes()
    assert peak_bytes() < before - 2**27


def test_cores_are_those_of_the_quota(tmp_path):
    allowed = len(os.sched_getaffinity(0))
    assert cores(tmp_path) == allowed
    second = tmp_path / "sys/fs/cgroup"
    (second / "cpu").mkdir(parents=True)
    (second / "cpu/cpu.cfs_period_us").write_text("100000\n")
    for quota, expected in (("-1", allowed), ("150000", 1), ("100000", 1), ("20000", 1)):
        (second / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert cores(tmp_path) == expected
    for quota, expected in (("max", allowed), ("100000", 1), (str(allowed * 10**6), allowed)):
        (second / "cpu.max").write_text(f"{quota} 100000\n")
        assert cores(tmp_path) == expected
