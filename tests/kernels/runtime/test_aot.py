import json
import subprocess
import sys

import pytest

from csplade.kernels.runtime import aot
from csplade.kernels.runtime.launch import compiled_environment

pytest.importorskip("triton")

# Kernels must stand in a file of their own, and compiling needs a process that does not interpret
# them.
CASES = """
import json
import triton, triton.language as tl
from csplade.kernels.runtime.aot import AotCase, compile_all

@triton.jit
def add(source, target, count, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.atomic_add(target + i, tl.load(source + i, mask=i < count), mask=i < count, sem="relaxed")

@triton.jit
def product(a, b, c, B: tl.constexpr):
    i = tl.arange(0, B)
    at = i[:, None] * B + i[None, :]
    tl.store(c + at, tl.dot(tl.load(a + at), tl.load(b + at)))

@triton.jit
def copy(source, target, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(target + i, tl.load(source + i))

@triton.jit
def broken(source, B: tl.constexpr):
    tl.store(source + tl.arange(0, B), nothing)

def case(name, kernel, types, size, **more):
    signature = dict(zip(kernel.arg_names, types, strict=True))
    return AotCase(name, kernel, signature, {"B": size}, **more)

floats = ("*bf16", "*bf16", "*fp32", "constexpr")
adds = ("*i32", "*i32", "i32", "constexpr")
cases = [
    case("add", add, adds, 1024, expects={80: ("RED",)}, aligned=("source", "target")),
    case("add that should use shared memory", add, adds, 1024, expects={80: (), 90: ("ATOMS",)}),
    case("product", product, floats, 64, expects={90: ("HGMMA",)}, min_capability=90),
    case(
        "too much for one warp", copy, ("*i32", "*i32", "constexpr"), 16384,
        num_warps=1, min_capability=90,
    ),
    case("broken", broken, ("*i32", "constexpr"), 32),
]
print(json.dumps([one.to_json() for one in compile_all(cases, (80, 90))]))
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    script = tmp_path_factory.mktemp("compile") / "cases.py"
    script.write_text(CASES)
    done = subprocess.run(
        [sys.executable, str(script)],
        env=compiled_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return {(one["name"], one["capability"]): one for one in json.loads(done.stdout)}


def test_each_case_compiles_for_what_it_is_meant_for(table):
    assert set(table) == {
        (name, capability)
        for name in (
            "add",
            "add that should use shared memory",
            "product",
            "too much for one warp",
            "broken",
        )
        for capability in (80, 90)
        if capability == 90 or name not in ("product", "too much for one warp")
    }


def test_the_table_tells_what_the_machine_code_holds(table):
    add, product = table["add", 80], table["product", 90]
    assert add["ok"]
    assert 8 <= add["registers"] <= 255
    assert (add["shared_bytes"], add["spill_bytes"]) == (0, 0)
    assert add["instructions"]["global_atomics"] > 0 == add["instructions"]["tensor"]
    assert product["ok"]
    assert product["instructions"]["tensor"] > 0 == product["instructions"]["global_atomics"]
    assert product["shared_bytes"] >= 2 * 64 * 64 * 2


def test_what_is_expected_and_not_there_fails(table):
    assert table["add that should use shared memory", 80]["ok"]
    assert table["add that should use shared memory", 90]["missing"] == ["ATOMS"]
    assert not table["add that should use shared memory", 90]["ok"]


def test_spills_fail(table):
    spilled = table["too much for one warp", 90]
    assert spilled["spill_bytes"] > 0
    assert not spilled["ok"]


def test_a_kernel_that_does_not_compile_fails_alone(table):
    assert "nothing" in table["broken", 90]["error"]
    assert not table["broken", 90]["ok"]


def test_cases_of_every_op_are_found_and_have_unique_names():
    names = [case.name for case in aot.cases()]
    assert names == sorted(set(names))
    for kernel in ("head/pool", "topk/collect", "score/triton", "score/gluon", "select/pick"):
        assert any(name.startswith(kernel) for name in names)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [(80, ("RED",)), (86, ("RED",)), (89, ("RED",)), (90, ("REDG",)), (100, ("REDG",)), (75, ())],
)
def test_expected_instructions_apply_from_a_capability_on(capability, expected):
    case = aot.AotCase("case", None, {}, {}, expects={80: ("RED",), 90: ("REDG",)})
    assert case.expected(capability) == expected
