"""The scorer in shared memory has no interpreter, so its compiled PTX is run here by a machine made
for that.
"""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from csplade.core.vectors import ImpactBatch
from csplade.kernels.runtime.launch import INTERPRETED, compiled_environment
from csplade.kernels.score.api import score_blocks
from csplade.kernels.score.gluon import SHARED_BYTES, supports
from csplade.kernels.score.triton import Plan
from csplade.kernels.score.types import (
    BIN_SHIFT,
    FIRST_BIN,
    SCORE_BINS,
    TILE_DOCUMENTS,
    BlockScores,
    Queries,
)
from csplade.kernels.select.api import select_blocks

from ..collection import Collection
from .ptx import Fault, launch

pytest.importorskip("triton")

COMPILE = """
import sys
from pathlib import Path
from csplade.kernels.score.gluon import AOT
for case in AOT:
    for capability in (80, 90, 100):
        compiled = case.compile(capability)
        name = f"{case.name.replace('/', '-')}-{capability}-{compiled.metadata.shared}.ptx"
        (Path(sys.argv[1]) / name).write_text(compiled.asm["ptx"])
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """PTX and bytes of shared memory by (case, capability)."""
    folder = tmp_path_factory.mktemp("ptx")
    subprocess.run(
        [sys.executable, "-c", COMPILE, str(folder)], env=compiled_environment(), check=True
    )
    found = {}
    for path in folder.iterdir():
        case, capability, shared = path.stem.removeprefix("score-gluon-").rsplit("-", 2)
        found[case, int(capability)] = path.read_text(), int(shared)
    assert len(found) == 9
    return found


@pytest.fixture(scope="module")
def postings():
    """Two blocks, the second one short, with some 600 postings per term."""
    return Collection(seed=2, documents=17_000, document_terms=3).postings("cpu")


@pytest.fixture(scope="module")
def dense_postings():
    """The same, nine terms of it as columns."""
    return Collection(seed=2, documents=17_000, document_terms=3).postings("cpu", dense=9)


@pytest.fixture(scope="module")
def queries(postings):
    """One of every term and one that is nowhere, an empty one, a short one."""
    rng = np.random.default_rng(3)
    every = np.append(np.flatnonzero(postings.rows.numpy() >= 0), 5)
    every = np.sort(every).astype(np.int32)
    terms = np.concatenate([every, every[7:10]])
    impacts = rng.integers(1, 4096, len(terms)).astype(np.int32)
    indptr = np.array([0, len(every), len(every), len(terms)])
    return Queries.from_impacts(ImpactBatch(indptr, terms, impacts, 1.0), "cpu")


def run(text, shared, queries, postings, mask, *, k=0, **options):
    """What the machine leaves in scores, tiles, histogram, matched and least."""
    n, blocks, width = len(queries), postings.blocks, postings.width
    plan = Plan(queries, postings, torch.zeros(n, dtype=torch.int64))
    scores = np.full((n, blocks, width), -7, np.int32)
    tiles = np.full((n, blocks * width // TILE_DOCUMENTS), -7, np.int64)
    matched = np.zeros(n, np.int64)
    histogram, least = np.zeros((n, SCORE_BINS), np.int32), np.zeros(n, np.int32)
    found = BlockScores(*map(torch.from_numpy, (scores, tiles, histogram, matched)), None, None)
    arguments = [
        one.numpy() if isinstance(one, torch.Tensor) else one
        for one in plan.arguments(queries, postings, mask, found)
    ]
    launch(text, shared, (n, blocks), [*arguments, least, k, 1], **options)
    return scores, tiles, histogram, matched, least


@pytest.mark.skipif(not INTERPRETED, reason="the plan is made by the interpreter")
@pytest.mark.parametrize(
    ("case", "capability", "grid"),
    [
        ("all", 90, (2, 3)),
        ("mask", 90, (0, 3)),
        ("mask", 80, (2, 3)),
        ("mask", 100, (2, 3)),
        ("dense-mask", 90, (0, 3)),
    ],
)
def test_compiled_code_gives_the_twin_s_bytes(
    compiled, postings, dense_postings, queries, case, capability, grid
):
    text, shared = compiled[case, capability]
    assert shared == SHARED_BYTES
    queries = queries.between(*grid)
    mask = None
    if case == "dense-mask":
        postings = dense_postings
    if case != "all":
        kept = (
            np.random.default_rng(4).random((len(queries), postings.blocks * postings.block_size))
            < 0.7
        )
        mask = torch.from_numpy(kept.astype(np.uint8))
    truth = score_blocks(queries, postings, mask=mask, backend="torch")
    found = run(text, shared, queries, postings, mask, seed=capability)
    scores, tiles, histogram, matched, least = found
    np.testing.assert_array_equal(scores, truth.scores)
    np.testing.assert_array_equal(tiles, truth.tiles)
    np.testing.assert_array_equal(histogram, truth.histogram)
    np.testing.assert_array_equal(matched, truth.matched)
    assert matched.any()
    assert not least.any()


@pytest.mark.skipif(not INTERPRETED, reason="the plan is made by the interpreter")
@pytest.mark.parametrize("capability", [90, 100])
@pytest.mark.parametrize("k", [1, 5, 200])
def test_tiles_that_cannot_hold_one_of_the_best_are_not_stored(
    compiled, postings, queries, capability, k
):
    text, shared = compiled["all", capability]
    queries = queries.between(0, 1)
    truth = score_blocks(queries, postings, backend="torch")
    scores, tiles, histogram, matched, least = run(
        text, shared, queries, postings, None, k=k, seed=k
    )
    np.testing.assert_array_equal(tiles, truth.tiles)
    np.testing.assert_array_equal(histogram, truth.histogram)
    np.testing.assert_array_equal(matched, truth.matched)
    # Both blocks have 34 tiles in all: after the last program the bin is the final one.
    reached = histogram[0][::-1].cumsum()[::-1]
    assert least[0] == (0 if k > reached[0] else np.flatnonzero(reached >= k).max())
    whole = scores.reshape(-1, TILE_DOCUMENTS)
    expected = truth.scores.numpy().reshape(-1, TILE_DOCUMENTS)
    stored = (whole == expected).all(axis=1)
    assert (whole[~stored] == -7).all()
    best = expected.max(axis=1)
    bins = (best.astype(np.float32).view(np.int32) >> BIN_SHIFT) - FIRST_BIN
    assert stored[(best > 0) & (bins >= least[0])].all()
    assert (~stored[best > 0]).any() == (k < 200)
    for one in (truth, dataclasses.replace(truth, scores=torch.from_numpy(scores))):
        keys, _ = select_blocks(one, postings, k, backend="torch")
        assert torch.equal(keys, select_blocks(truth, postings, k, backend="torch")[0])


@pytest.mark.skipif(not INTERPRETED, reason="the plan is made by the interpreter")
@pytest.mark.parametrize("barrier", ["before the first addition", "after the last one"])
def test_without_a_barrier_the_machine_finds_a_race(compiled, postings, queries, barrier):
    text, shared = compiled["all", 90]
    places = [found.span() for found in re.finditer(r"bar\.sync\s+0;", text)]
    additions = [found.start() for found in re.finditer(r"red\.shared", text)]
    last = max(place for place in places if place[0] < additions[0])
    first = min(place for place in places if place[0] > additions[-1])
    start, end = last if barrier == "before the first addition" else first
    with pytest.raises(Fault, match="race"):
        run(text[:start] + text[end:], shared, queries.between(2, 3), postings.between(0, 1), None)


@pytest.mark.skipif(not INTERPRETED, reason="the plan is made by the interpreter")
def test_postings_outside_of_memory_are_a_fault(compiled, postings, queries):
    text, shared = compiled["all", 90]
    short = dataclasses.replace(postings, impacts=postings.impacts[:-1000])
    with pytest.raises(Fault, match="outside of memory"):
        run(text, shared, queries.between(0, 1), short, None)


def test_postings_on_the_cpu_are_not_supported(postings):
    assert "run only compiled, on a GPU" in supports(postings).reason
