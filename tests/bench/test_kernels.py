import json
import re
import subprocess
import sys

import pytest
import torch

from csplade.bench import distribution
from csplade.bench import kernels as bench_kernels
from csplade.bench.synthetic_device import collection
from csplade.kernels.runtime.launch import compiled_environment
from csplade.kernels.score.api import score_blocks
from csplade.kernels.score.types import Queries

CPU = torch.device("cpu")


def csplade(*arguments):
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from csplade.cli import run; run()",
            "bench",
            "kernels",
            *arguments,
        ],
        env=compiled_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_op_is_timed_beside_its_alternatives():
    seen = []
    report = bench_kernels.run("cpu", progress=seen.append)
    ways = {}
    for one in report.timed:
        ways.setdefault(one.op, set()).add(one.way)
        assert one.milliseconds > 0 < one.floor
        assert one.over_floor == pytest.approx(one.milliseconds / one.floor)
        assert one.peak_bytes is None
    assert ways == {
        "head": {"csplade", "the product alone", "plain torch"},
        "topk": {"csplade", "torch.topk (any tie)"},
        "score": {"csplade (torch)", "index_add_ per term", "torch.sparse.mm, float32 CSR"},
        "select": {"csplade (with the scorer's tiles)", "torch.topk (any tie)"},
    }
    assert all(one.against == 1 for one in report.timed if one.way.startswith("csplade"))
    assert len(seen) == len({(one.op, one.case) for one in report.timed})
    assert json.loads(json.dumps(report.to_json()))["timed"][0]["op"] == "head"


def test_the_alternatives_give_the_same_scores():
    """What is timed side by side must do the same work."""
    postings = collection(300, 20.0, distribution.VOCABULARY, 7, CPU, block_size=128)
    queries = Queries.from_impacts(distribution.queries(2, 8, 3), CPU)
    truth = score_blocks(queries, postings).scores[:, :, :128].reshape(2, -1)
    by_term = bench_kernels._ByTerm.of(postings, distribution.VOCABULARY)
    rows = [(terms.tolist(), impacts) for terms, impacts in bench_kernels._rows(queries)]
    assert torch.equal(by_term.index_add(rows), truth)
    dense = torch.zeros(distribution.VOCABULARY, 2)
    for i, (terms, impacts) in enumerate(bench_kernels._rows(queries)):
        dense[terms, i] = impacts.float()
    assert torch.equal(torch.sparse.mm(by_term.matrix(), dense).T.to(torch.int32), truth)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compile_only_prints_the_table_and_what_must_be_there_is():
    """The scorer's fast path spills nothing and adds in shared memory; the head multiplies on
    tensor cores.
    """
    pytest.importorskip("triton")
    cases = ("score/", "head/pool/bf16-128x256-tma", "select/expand")
    done = csplade(
        "--compile-only",
        "--capability",
        "90",
        *(word for case in cases for word in ("--case", case)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    heading, *rows = (re.split(r"  +", line.strip()) for line in done.stdout.splitlines())
    table = {row[0]: dict(zip(heading, row, strict=True)) for row in rows}
    for case in cases:
        assert any(name.startswith(case) for name in table), f"no case of {case}"
    assert {row["verdict"] for row in table.values()} == {"ok"}
    assert {row["spills"] for row in table.values()} == {"0"}
    assert all(
        int(row["shared atomics"]) for name, row in table.items() if name.startswith("score/gluon")
    )
    assert all(int(row["tensor"]) for name, row in table.items() if name.startswith("head/pool"))


def test_cases_that_are_not_there_are_refused():
    pytest.importorskip("triton")
    done = csplade("--compile-only", "--capability", "90", "--case", "nothing/like/this")
    assert done.returncode == 2
    assert "nothing/like/this" in done.stderr
