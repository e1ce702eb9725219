import platform

import torch

from csplade.core.machine import hardware, peak_bytes, reset_peak_bytes


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
