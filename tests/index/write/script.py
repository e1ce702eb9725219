"""A script of writes for a process that is killed, or whose disk is full, at a named point.

Run as ``python -m tests.index.write.script PATH STEPS POINT NUMBER HOW``; it prints what was
acknowledged, one JSON line for each step.
"""

import errno
import json
import os
import signal
import sys

import numpy as np

from csplade.core.document import Document
from csplade.core.errors import CspladeError, UnavailableError
from csplade.index import IndexWriter, Upsert
from csplade.index.write import background, compaction

from .. import helpers

POINTS = {
    "shard commit": "csplade.index.storage.writable:WritableStore._commit",
    "commit": "csplade.index.write.log:CommitLog.commit",
    "publish": "csplade.index.read.reader:Index.publish",
    "segment": "csplade.index.write.compaction:write_segment",
    "rename": "os:replace",
    "swap": "csplade.index.storage.manifest:ShardManifest.write",
    "purge": "csplade.index.storage.writable:WritableStore.purge",
    "removal": "pathlib:Path.unlink",
}


def operations(steps, *, seed=1):
    """Yield ("upsert", [(id, text, row)]) and ("delete", [id]) and ("compact", None)."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        ids = [f"id-{i}" for i in rng.choice(80, rng.integers(1, 25), replace=False)]
        if step % 7 == 6:
            yield "compact", None
        elif step % 3 == 2:
            yield "delete", ids[:8]
        else:
            vectors = helpers.random_vectors(rng, len(ids))
            yield (
                "upsert",
                [(id, f"text {step}", vectors.row(i)) for i, id in enumerate(ids)],
            )


def replay(known, operation, statuses=None):
    """Apply an operation to a dictionary of texts; only items that did not fail."""
    kind, items = operation
    for place, item in enumerate(items or ()):
        if statuses is not None and statuses[place] == "failed":
            continue
        if kind == "upsert":
            known.pop(item[0], None)
            known[item[0]] = item[1]
        else:
            known.pop(item, None)


def apply(writer, operation):
    """Do one operation; return the statuses of its items."""
    kind, items = operation
    if kind == "compact":
        try:
            writer.compact()
        except CspladeError:
            return ["failed"]
        return []
    if kind == "delete":
        return [one.status for one in writer.delete(items)]
    upserts = [Upsert(Document(id, text), vector) for id, text, vector in items]
    return [one.status for one in writer.upsert(upserts)]


def spoil(point, number, how):
    """Let the ``number``-th passing of a point, before or after it, be fatal or fail."""
    name, when = point.rsplit(" ", 1)
    module, path = POINTS[name].split(":")
    __import__(module)
    owner = sys.modules[module]
    *parents, attribute = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original, calls = getattr(owner, attribute), 0

    def fail():
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if name in ("shard commit", "commit", "purge"):
            raise UnavailableError("no space left to write (injected)")
        raise OSError(errno.ENOSPC, "injected")

    def passing(*args, **keywords):
        nonlocal calls
        calls += 1
        hit = calls == number
        if hit and when == "before":
            fail()
        result = original(*args, **keywords)
        if hit:
            fail()
        return result

    setattr(owner, attribute, passing)


def main(path, steps, point, number, how):
    """Open, spoil, write; print what was acknowledged."""
    compaction.DELETED_DOCUMENTS, background.TAIL_SEGMENTS = 5, 1000
    writer = IndexWriter.open(path, threads=1)
    if how != "none":
        spoil(point, int(number), how)
    for step, operation in enumerate(operations(int(steps))):
        statuses = apply(writer, operation)
        print(json.dumps([step, statuses]), flush=True)
    writer.close()
    print(json.dumps(["closed"]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
