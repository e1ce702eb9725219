"""A writer that is killed or whose disk is full at any point loses nothing that it acknowledged."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from csplade.core.document import Document
from csplade.index import Index, IndexWriter, Upsert, verify

from .. import helpers
from .script import POINTS as NAMES
from .script import operations, replay

ROOT = Path(__file__).parents[3]
STEPS = 21
POINTS = [f"{name} {when}" for name in NAMES for when in ("before", "after")]


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A built index of 50 documents in 2 shards; not to be changed."""
    vectors = helpers.random_vectors(np.random.default_rng(2), 50)
    path = tmp_path_factory.mktemp("live") / "index"
    return helpers.make_index(path, vectors, shards=2, block_size=16, segment_blocks=2)


def run(path, point, number, how, steps=STEPS):
    """Run the script; return its exit status and the lines that it printed."""
    script = [sys.executable, "-m", "tests.index.write.script"]
    found = subprocess.run(
        [*script, path, str(steps), point, str(number), how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    lines = [json.loads(line) for line in found.stdout.splitlines() if line.endswith("]")]
    return found.returncode, lines, found.stderr


def contents(index):
    """Text of each document, in order of arrival."""
    page = index.scroll(limit=10_000)
    return [(one.document.id, one.document.text) for one in page]


def check_state(path, allowed):
    """The index holds one of the allowed states, before and after recovery, and goes on."""
    with Index.open(path, threads=1) as index:
        found = contents(index)
        assert found in allowed
    with IndexWriter.open(path, threads=1) as writer:
        now = writer.index.snapshot
        assert contents(now) == found
        queries = helpers.random_queries(np.random.default_rng(3), 3)
        helpers.assert_same_hits(now.search(queries, 50), now.oracle(queries, 50))
        del now
        vector = helpers.random_vectors(np.random.default_rng(4), 1).row(0)
        (result,) = writer.upsert([Upsert(Document("last", "one"), vector)])
        assert result.status == "created"
        writer.compact()
        assert contents(writer.index) == [*found, ("last", "one")]
    with Index.open(path, threads=1) as index:
        report = verify(index, 20)
        assert report.ok, report.problems
        assert contents(index) == [*found, ("last", "one")]
        for shard in index.shards.values():
            files = {one.name for one in shard.directory.iterdir()}
            named = {one.file for one in shard.manifest.segments}
            assert {one for one in files if one.startswith("segment")} == named


def after(path, lines, steps=STEPS):
    """The states that may be found after these acknowledgements."""
    with Index.open(path, threads=1) as index:
        known = dict(contents(index))
    wanted = list(operations(steps))
    done = [line for line in lines if line != ["closed"]]
    for operation, (_, statuses) in zip(wanted, done, strict=False):
        if operation[0] != "compact":
            replay(known, operation, statuses)
    allowed = [list(known.items())]
    if len(done) < len(wanted):
        replay(known, wanted[len(done)])
        allowed.append(list(known.items()))
    return allowed


def killed(built, path, point, number):
    """Kill the script at a point and check what is left; False if it ended before."""
    shutil.copytree(built, path)
    status, lines, errors = run(path, point, number, "kill")
    if status == 0:
        return False
    assert status == -signal.SIGKILL, errors
    check_state(path, after(built, lines))
    shutil.rmtree(path)
    return True


def disk_full(built, path, point, number):
    """Let the script's disk be full once, at a point, and check what is left."""
    shutil.copytree(built, path)
    status, lines, errors = run(path, point, number, "full")
    assert (status, lines[-1]) == (0, ["closed"]), errors
    (state,) = after(built, lines)
    check_state(path, [state])
    shutil.rmtree(path)


@pytest.mark.parametrize("point", ["shard commit before", "shard commit after", "swap after"])
def test_killed(built, tmp_path, point):
    assert killed(built, tmp_path / "index", point, 3)


@pytest.mark.parametrize("point", ["shard commit before", "shard commit after", "swap before"])
def test_disk_full(built, tmp_path, point):
    disk_full(built, tmp_path / "index", point, 3)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("point", POINTS)
def test_killed_and_disk_full_at_every_point(built, tmp_path, point):
    assert sum(killed(built, tmp_path / "index", point, number) for number in (1, 2, 3, 12))
    for number in (1, 2, 5):
        if not point.startswith("publish"):  # which touches no disk
            disk_full(built, tmp_path / "index", point, number)


@pytest.mark.parametrize(
    "step", [997, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])]
)
def test_a_log_that_is_cut_anywhere_gives_the_last_acknowledged_state(built, tmp_path, step):
    """What lies behind the last acknowledged commit may be torn at any byte."""
    path, cut = Path(shutil.copytree(built, tmp_path / "whole")), tmp_path / "cut"
    logs = [path / f"shard-{shard:04d}" / "documents.sqlite-wal" for shard in range(2)]
    vectors = helpers.random_vectors(np.random.default_rng(4), 4, highest=3)
    writer = IndexWriter.open(path, threads=1)
    writer.upsert([Upsert(Document(f"id-{i}", "first"), vectors.row(i)) for i in range(2)])
    before, sizes = contents(writer.index), [one.stat().st_size for one in logs]
    saved = [one.read_bytes() for one in logs]
    writer.upsert([Upsert(Document(f"id-{i}", "second"), vectors.row(i + 2)) for i in range(2)])
    end = contents(writer.index)
    assert end != before
    for shard, log in enumerate(logs):
        whole = log.read_bytes()
        assert whole[: sizes[shard]] == saved[shard]
        for size in [*range(sizes[shard], len(whole), step), len(whole)]:
            shutil.rmtree(cut, ignore_errors=True)
            shutil.copytree(path, cut, ignore=lambda *_: {"documents.sqlite-shm"})
            (cut / log.relative_to(path)).write_bytes(whole[:size])
            if shard == 1:  # shard 0 commits last: its log is still what it was
                (cut / logs[0].relative_to(path)).write_bytes(saved[0])
            with Index.open(cut, threads=1) as index:
                found = contents(index)
            assert found == (end if shard == 0 and size == len(whole) else before), size
    writer.close()
