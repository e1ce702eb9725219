"""Where the work of a search is done: on the event loop when it is brief, else in the worker."""

import asyncio
import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from csplade.core.errors import DeadlineError
from csplade.engine import batching, deadline, local
from csplade.engine.backend import Query
from csplade.engine.batching import BatchOptions
from csplade.engine.collection import Collection
from csplade.engine.deadline import Deadline
from csplade.engine.local import LocalBackend
from csplade.engine.observer import NullObserver
from csplade.engine.policy import INLINE_HITS, INLINE_TEXT
from csplade.index import Index
from csplade.kernels.score import cpu
from csplade.model import Encoder

VECTOR = (np.array([3, 45], np.int32), np.array([1.0, 2.0], np.float32))


@pytest.fixture
def done_here(monkeypatch):
    """Tells whether the event loop itself does a search, once it is known that searches take little
    time.
    """
    monkeypatch.setattr(batching, "INLINE_SECONDS", math.inf)  # however slow this machine is

    async def done_here(engine, **asked):
        threads, search = [], engine.index.snapshot.search

        def noting(queries, k, *arguments, **options):
            threads.append(threading.get_ident())
            return search(queries, k, *arguments, **options)

        monkeypatch.setattr(engine.index.snapshot, "search", noting)
        running = LocalBackend(engine, BatchOptions(), NullObserver())
        answers = []
        for _ in range(2):
            answers.append((await running.search(Query(**asked), Deadline.after(60))).hits)
            with running._search_worker._working:  # until the worker is idle again
                pass
        running._search_worker.close()
        running._encode_worker.close()
        assert answers[0] == answers[1]
        assert threads[0] != threading.get_ident()  # nobody knew
        return threads[1] == threading.get_ident()

    return done_here


@pytest.fixture
def vectors(vector_index):
    with Collection(Index.open(vector_index, threads=1)) as engine:
        yield engine


async def test_a_search_of_a_small_index_is_done_on_the_event_loop(done_here, vectors, monkeypatch):
    assert await done_here(vectors, vector=VECTOR, k=INLINE_HITS)
    monkeypatch.setattr(local, "INLINE_POSTINGS", vectors.index.manifest.postings - 1)
    assert not await done_here(vectors, vector=VECTOR, k=INLINE_HITS)


@pytest.mark.parametrize(
    "more", [{"k": INLINE_HITS + 1}, {"k": 1, "explain": True}, {"k": 1, "with_document": True}]
)
async def test_long_answers_are_made_elsewhere(done_here, vectors, more):
    assert not await done_here(vectors, vector=VECTOR, **more)


async def test_a_text_is_brief_when_it_is_short_and_looked_up(
    done_here, text_index, encoder, tiny_model_of
):
    with Collection(Index.open(text_index, threads=1), encoder) as engine:
        assert not await done_here(engine, text="a river", k=5)
    looks_up = Encoder.from_pretrained(tiny_model_of(query_encoder="lexical"), device="cpu")
    with Collection(Index.open(text_index, threads=1)) as engine:
        engine.encoder = looks_up
        assert await done_here(engine, text="a river", k=5)
        assert not await done_here(engine, text="river " * INLINE_TEXT, k=5)


async def test_an_expired_search_stops_at_the_next_blocks(vectors, monkeypatch):
    """By a clock of its own: the deadline passes while the first of three shards is scored."""
    now, scored, score = [0.0], [], cpu.score_blocks

    def score_blocks(*arguments):
        score(*arguments)
        scored.append(arguments)
        now[0] = 61.0

    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(cpu, "score_blocks", score_blocks)
    running = LocalBackend(vectors, BatchOptions(), NullObserver())
    with pytest.raises(DeadlineError):
        await running.search(Query(vector=VECTOR), Deadline.after(60))
    await asyncio.to_thread(running._search_worker.close)
    running._encode_worker.close()
    assert len(scored) == 1


async def test_a_store_that_is_stuck_delays_no_search_without_documents(vectors, monkeypatch):
    now, stuck = vectors.index.snapshot, threading.Event()
    fetch = now.fetch

    def wait(*places):
        assert stuck.wait(30)
        return fetch(*places)

    monkeypatch.setattr(now, "fetch", wait)
    running = LocalBackend(vectors, BatchOptions(threads=2), NullObserver())
    stalled = [
        asyncio.create_task(
            running.search(Query(vector=VECTOR, with_document=True), Deadline.after(60))
        )
        for _ in range(5)
    ]
    brief = [running.search(Query(vector=VECTOR), Deadline.after(60)) for _ in range(100)]
    answers = await asyncio.gather(*brief)
    assert not any(task.done() for task in stalled)
    stuck.set()
    for task in stalled:
        assert [hit.id for hit in (await task).hits] == [hit.id for hit in answers[0].hits]
    await asyncio.to_thread(running._search_worker.close)
    running._encode_worker.close()
