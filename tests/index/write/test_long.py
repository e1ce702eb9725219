"""Kills without end, and a collection that is rewritten over and over."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from csplade.core.document import Document
from csplade.index import IndexWriter, Upsert, verify

from .. import helpers

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("CSPLADE_TEST_KILLS", "30"))


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_nothing_acknowledged_is_lost_by_kills(tmp_path):
    vectors = helpers.random_vectors(np.random.default_rng(2), 50)
    path = helpers.make_index(
        tmp_path / "index", vectors, shards=2, block_size=16, segment_blocks=2
    )
    found = subprocess.run(
        [sys.executable, "-m", "tests.index.write.kills", path, str(KILLS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(f"{KILLS} kills: ")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_collection_rewritten_ten_times_takes_what_it_took(tmp_path):
    count = 3000
    rng = np.random.default_rng(1)
    vectors = helpers.random_vectors(rng, count)
    path = helpers.make_index(
        tmp_path / "index", vectors, batch=count, block_size=256, segment_blocks=4
    )
    held = []
    with IndexWriter.open(path, threads=1) as writer:
        for turn in range(10):
            for first in range(0, count, 500):
                items = [
                    Upsert(
                        Document(f"id-{i}", f"turn {turn} " + "x" * 500),
                        vectors.row((i + turn) % count),
                    )
                    for i in range(first, first + 500)
                ]
                assert {one.status for one in writer.upsert(items)} == {"updated"}
            writer.compact()
            stats = writer.stats
            assert (stats.documents, stats.deleted, stats.garbage_rows) == (count, 0, 0)
            held.append((memory(writer.index), disk(path)))
        assert verify(writer.index, 20).ok
    (first_memory, first_disk), (last_memory, last_disk) = held[0], held[-1]
    assert last_memory < 1.1 * first_memory
    assert last_disk < 1.1 * first_disk


def memory(index):
    """Bytes of all arrays that the index holds."""
    return sum(
        sum(getattr(one.segment, field.name).nbytes for field in fields(one.segment))
        + one.ordinals.nbytes
        + one.live.nbytes
        + one.ids.nbytes
        for shard in index.shards.values()
        for one in shard.segments
    )


def disk(path):
    """Bytes of all files of the index."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
