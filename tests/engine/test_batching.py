import asyncio
import math
import threading
import time

import pytest

from csplade.core.errors import DeadlineError, OverloadedError, UnavailableError
from csplade.engine import batching
from csplade.engine.batching import BRIEF, Batcher
from csplade.service.settings import Batching
from csplade.service.telemetry.metrics import Metrics

LATER = 60.0


class Work:
    """A process function that stops at its first batch until it is let go, and notes every batch."""

    def __init__(self, **sizes):
        self.batches, self.weighed, self.threads = [], [], []
        self.entered, self.release = threading.Event(), threading.Event()
        self.metrics = Metrics()
        self.batcher = Batcher(
            self.weigh,
            self.process,
            self.finish,
            light=lambda work: work != "heavy",
            brief=lambda work: work.startswith("brief"),
            threads=1,
            settings=Batching(**sizes),
            metrics=self.metrics,
        )
        self.finishing = threading.Event()

    def weigh(self, works):
        self.weighed += works
        return [len(work) for work in works]

    def process(self, works):
        self.batches.append(list(works))
        self.threads.append(threading.get_ident())
        self.entered.set()
        assert self.release.wait(30)
        if "poison" in works:
            raise ValueError("poison")
        return [work.upper() for work in works]

    def finish(self, work, done, waited):
        assert waited > 0
        assert done == work.upper()
        if work == "heavy":
            assert self.finishing.wait(30)
        if work == "unfinished":
            raise ValueError("unfinished")
        return done

    async def submit(self, *works, seconds=LATER):
        return await self.batcher.submit(works, time.monotonic() + seconds)

    async def first(self):
        """Have a first batch done, so that it is known how long works take, and the worker idle."""
        await self.submit("brief, but nobody knows yet")
        with self.batcher._working:
            pass

    async def hold(self):
        """Occupy the worker with a first batch."""
        first = asyncio.create_task(self.submit("first"))
        await asyncio.to_thread(self.entered.wait, 30)
        return first


@pytest.fixture
def work():
    made = []

    def make(**sizes):
        made.append(Work(**sizes))
        return made[-1]

    yield make
    for one in made:
        one.release.set()
        one.batcher.close()


async def queued(work, *groups, seconds=LATER):
    """Tasks of submissions that stand in the queue, in this order."""
    tasks = []
    for group in groups:
        before = work.metrics.queue_depth._value.get()
        tasks.append(asyncio.create_task(work.submit(*group, seconds=seconds)))
        while work.metrics.queue_depth._value.get() == before and not tasks[-1].done():
            await asyncio.sleep(0)
    return tasks


async def test_takes_whatever_waits_at_once(work):
    work = work()
    first = await work.hold()
    rest = await queued(work, ["b"], ["c", "d"], ["e"])
    work.release.set()
    assert await first == ["FIRST"]
    assert await asyncio.gather(*rest) == [["B"], ["C", "D"], ["E"]]
    assert work.batches == [["first"], ["b", "c", "d", "e"]]


async def test_batches_keep_the_token_budget_and_the_order(work):
    work = work(tokens=6)
    first = await work.hold()
    rest = await queued(work, ["aaa"], ["bbb"], ["c"], ["dddddddddd"], ["e"])
    work.release.set()
    await asyncio.gather(first, *rest)
    assert work.batches == [["first"], ["aaa", "bbb"], ["c"], ["dddddddddd"], ["e"]]
    assert sorted(work.weighed) == sorted(["first", "aaa", "bbb", "c", "dddddddddd", "e"])


async def test_batches_keep_the_query_bound(work):
    work = work(queries=2)
    first = await work.hold()
    rest = await queued(work, ["a", "b", "c"])
    work.release.set()
    await asyncio.gather(first, *rest)
    assert work.batches == [["first"], ["a", "b"], ["c"]]


async def test_a_full_queue_refuses_at_once_and_takes_all_or_none(work):
    work = work(queue=2)
    first = await work.hold()
    (waiting,) = await queued(work, ["a"])
    with pytest.raises(OverloadedError, match=r"1 wait, 2 more exceed batching\.queue 2") as error:
        await work.submit("b", "c")
    assert 0 < error.value.retry_after <= 10
    (other,) = await queued(work, ["d"])
    with pytest.raises(OverloadedError):
        await work.submit("e")
    work.release.set()
    assert await asyncio.gather(first, waiting, other) == [["FIRST"], ["A"], ["D"]]
    assert work.batches == [["first"], ["a", "d"]]


async def test_passed_deadlines_are_dropped_before_any_work(work):
    work = work()
    first = await work.hold()
    late, timely = await queued(work, ["late"], seconds=0) + await queued(work, ["timely"])
    work.release.set()
    with pytest.raises(DeadlineError, match="in the queue"):
        await late
    assert await timely == ["TIMELY"]
    assert await first == ["FIRST"]
    assert work.batches == [["first"], ["timely"]]
    assert "late" not in work.weighed


async def test_cancelled_work_is_dropped_before_any_work(work):
    work = work()
    first = await work.hold()
    gone, stays = await queued(work, ["gone"], ["stays"])
    gone.cancel()
    await asyncio.wait([gone])
    work.release.set()
    assert await asyncio.gather(first, stays) == [["FIRST"], ["STAYS"]]
    assert work.batches == [["first"], ["stays"]]
    assert "gone" not in work.weighed


async def test_only_the_culprit_of_a_batch_fails(work):
    work = work()
    first = await work.hold()
    good, bad, fine = await queued(work, ["good"], ["poison"], ["fine"])
    work.release.set()
    assert await asyncio.gather(first, good, fine) == [["FIRST"], ["GOOD"], ["FINE"]]
    with pytest.raises(ValueError, match="poison"):
        await bad
    assert await work.submit("after") == ["AFTER"]


async def test_what_cannot_be_finished_fails_alone(work):
    work = work()
    first = await work.hold()
    good, bad = await queued(work, ["good"], ["unfinished"])
    work.release.set()
    assert await asyncio.gather(first, good) == [["FIRST"], ["GOOD"]]
    with pytest.raises(ValueError, match="unfinished"):
        await bad


async def test_what_takes_long_to_finish_holds_nobody_up(work):
    work = work()
    work.release.set()
    heavy = asyncio.create_task(work.submit("heavy"))
    while not work.batches:
        await asyncio.sleep(0)
    assert await work.submit("light", seconds=20) == ["LIGHT"]
    assert not heavy.done()
    work.finishing.set()
    assert await heavy == ["HEAVY"]


async def test_what_cannot_be_weighed_fails_and_the_worker_lives(work, monkeypatch):
    work = work()
    work.release.set()
    work.batcher._weigh = lambda works: works[0].nothing
    with pytest.raises(AttributeError):
        await work.submit("a")
    work.batcher._weigh = work.weigh
    assert await work.submit("b") == ["B"]


async def test_closing_finishes_what_waits_and_refuses_more(work):
    work = work()
    first = await work.hold()
    (waiting,) = await queued(work, ["a"])
    closing = asyncio.create_task(asyncio.to_thread(work.batcher.close))
    while not work.batcher._closed:
        await asyncio.sleep(0)
    with pytest.raises(UnavailableError):
        await work.submit("b")
    work.release.set()
    assert await asyncio.gather(first, waiting) == [["FIRST"], ["A"]]
    await closing


@pytest.fixture
def quick(monkeypatch):
    """However slow this machine is, works count as quick."""
    monkeypatch.setattr(batching, "BRIEF", math.inf)


async def test_brief_works_are_done_together_on_the_event_loop(work, quick):
    batches = work(queries=3)
    batches.release.set()
    here = threading.get_ident()
    await batches.first()
    assert here not in batches.threads
    texts = [f"brief {i}" for i in range(3)]
    answers = await asyncio.gather(*(batches.submit(text) for text in texts))
    assert answers == [[text.upper()] for text in texts]
    assert batches.batches[1:] == [texts]
    assert batches.threads[1:] == [here]


async def test_what_is_not_brief_is_done_by_the_worker(work, quick):
    batches = work()
    batches.release.set()
    await batches.first()
    await asyncio.gather(
        batches.submit("brief"), batches.submit("long"), batches.submit("brief too")
    )
    assert {one for batch in batches.batches[1:] for one in batch} == {"brief", "long", "brief too"}
    (thread,) = (
        thread
        for batch, thread in zip(batches.batches, batches.threads, strict=True)
        if "long" in batch
    )
    assert thread != threading.get_ident()


async def test_brief_works_wait_for_a_batch_that_is_being_done(work, quick):
    batches = work()
    batches.release.set()
    await batches.first()
    batches.release.clear()
    batches.entered.clear()
    long = await batches.hold()
    brief = asyncio.create_task(batches.submit("brief"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not brief.done()
    batches.release.set()
    assert await brief == ["BRIEF"]
    assert await long == ["FIRST"]
    assert batches.batches[-1] == ["brief"]
    assert threading.get_ident() not in batches.threads


async def test_nothing_is_brief_while_works_take_long(work):
    batches = work()
    first = await batches.hold()
    await asyncio.sleep(5 * BRIEF)
    batches.release.set()
    await first
    await batches.submit("brief")
    assert threading.get_ident() not in batches.threads
