"""Kill a writer again and again, at any instant, and check what is left each time.

Run as ``python -m tests.index.write.kills PATH COUNT [SEED]`` on a built index; the last line is a
summary. Writers are forked, so that a kill costs little more than what the writer did.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from csplade.index import Index, IndexWriter, verify
from csplade.index.write import background, compaction

from .. import helpers
from .script import apply, operations, replay

STEPS = 40
LONGEST = 0.05  # seconds that a writer lives after the last acknowledgement that is waited for
VERIFY_EACH = 25


def write(path, seed, pipe):
    """Write, and tell what was acknowledged; never returns."""
    writer = IndexWriter.open(path, threads=1)
    for step, operation in enumerate(operations(STEPS, seed=seed)):
        statuses = apply(writer, operation)
        os.write(pipe, (json.dumps([step, statuses]) + "\n").encode())
    writer.close()
    os._exit(0)


def killed(path, seed, count, delay):
    """Kill a writer some time after so many acknowledgements.

    Returns:
        All that it acknowledged, and whether it ended before.
    """
    out, pipe = os.pipe()
    process = os.fork()
    if not process:
        os.close(out)
        try:
            write(path, seed, pipe)
        finally:
            os._exit(1)
    os.close(pipe)
    with open(out) as lines:
        told = [line for _, line in zip(range(count), lines, strict=False)]
        time.sleep(delay)
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        told = list(map(json.loads, [*told, *lines]))
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return told, not os.WIFSIGNALED(status)


def contents(index):
    """Id and text of each document, in order of arrival."""
    return [(one.document.id, one.document.text) for one in index.scroll(limit=10_000)]


def main(path, count, seed=1):
    """Kill so many times; print how many acknowledgements were kept."""
    compaction.DELETED_DOCUMENTS, background.TAIL_SEGMENTS = 5, 1000
    path, chance, totals = Path(path), random.Random(int(seed)), [0, 0, 0]
    with Index.open(path, threads=1) as index:
        known = dict(contents(index))
    for number in range(int(count)):
        told, ended = killed(path, number, chance.randint(0, STEPS), chance.uniform(0, LONGEST))
        wanted = list(operations(STEPS, seed=number))
        for operation, (_, statuses) in zip(wanted, told, strict=False):
            if operation[0] != "compact":
                replay(known, operation, statuses)
        allowed = [known]
        if len(told) < len(wanted):
            allowed.append(dict(known))
            replay(allowed[1], wanted[len(told)])
        with Index.open(path, threads=1) as index:
            found = contents(index)
            assert found in [list(one.items()) for one in allowed], f"lost after kill {number}"
            queries = helpers.random_queries(np.random.default_rng(number), 1)
            helpers.assert_same_hits(index.search(queries, 50), index.oracle(queries, 50))
            if number % VERIFY_EACH == 0:
                report = verify(index, 5)
                assert report.ok, report.problems
        totals[0] += len(told)
        totals[1] += found != list(known.items())
        totals[2] += ended
        known = dict(found)
    acknowledged, unanswered, ended = totals
    print(
        f"{count} kills: {acknowledged} acknowledged operations, none lost; {unanswered} that were "
        f"not acknowledged were kept whole; {ended} writers ended before their kill"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
