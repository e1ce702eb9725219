"""The machine code of head and topk: nothing spilled, tensor cores and bulk copies where they
belong.
"""

import json
import subprocess
import sys

import pytest

from csplade.kernels.runtime.launch import compiled_environment

pytest.importorskip("triton")

COMPILE = """
import json, sys
from csplade.kernels.head import triton as head
from csplade.kernels.topk import triton as topk
from csplade.kernels.runtime.aot import compile_all
cases = [*head.AOT, *topk.AOT]
print(json.dumps([one.to_json() for one in compile_all(cases, [int(sys.argv[1])])]))
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("capability", "product"),
    [
        pytest.param(80, "HMMA", marks=pytest.mark.slow),
        pytest.param(90, "HGMMA", marks=pytest.mark.slow),
        pytest.param(100, "UTCHMMA", marks=pytest.mark.slow),
    ],
)
def test_every_kernel_compiles_without_spills(capability, product):
    from csplade.kernels.head import triton as head
    from csplade.kernels.topk import triton as topk

    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(capability)],
        env=compiled_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    compiled = {one["name"]: one for one in json.loads(done.stdout)}
    cases = {case.name: case for case in [*head.AOT, *topk.AOT]}
    assert compiled.keys() == {
        name
        for name, case in cases.items()
        if case.min_capability <= capability <= case.max_capability
    }
    for name, one in compiled.items():
        assert one["ok"], one
        assert one["stack_bytes"] == 0, one
        # One program of the wide tile fills a multiprocessor; two of any other share it.
        programs = 1 if "128x256" in name else 2
        assert programs * one["shared_bytes"] <= 227 * 1024
        if name.startswith("head/pool") and "fp32" not in name:
            assert product in cases[name].expected(capability)
        if "-tma" in name:
            assert one["instructions"]["bulk_copies"] > 0
    assert any(name.startswith("head/pool/bf16-128x128") for name in compiled)
