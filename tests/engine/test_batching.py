import asyncio
import math
import threading
from types import SimpleNamespace

import pytest

from csplade.core.errors import DeadlineError, OverloadedError, UnavailableError
from csplade.engine import batching
from csplade.engine.batching import Batcher, BatchOptions
from csplade.engine.deadline import Deadline
from csplade.engine.policy import INLINE_SECONDS, URGENT_BATCHES
from csplade.service.telemetry.metrics import Metrics

LATER = 60.0


class Task:
    """A task that behaves as its text says: heavy, brief, poison, unfinished, background."""

    def __init__(self, text):
        self.text, self.done = text, ""


class Work:
    """A job that stops at its first batch until it is released, and keeps every batch."""

    def __init__(self, **sizes):
        self.batches, self.weighed, self.threads = [], [], []
        self.entered, self.release = threading.Event(), threading.Event()
        self.metrics = Metrics()
        self.batcher = Batcher(self, BatchOptions(threads=1, **sizes), self.metrics)
        self.finishing = threading.Event()

    def is_urgent(self, task):
        return not task.text.startswith("background")

    def characters(self, task):
        return len(task.text)

    def finishes_inline(self, task):
        return task.text != "heavy"

    def runs_inline(self, task):
        return task.text.startswith("brief")

    def weigh(self, tasks):
        self.weighed += [task.text for task in tasks]
        return [len(task.text) for task in tasks]

    def process(self, tasks):
        self.batches.append([task.text for task in tasks])
        self.threads.append(threading.get_ident())
        self.entered.set()
        assert self.release.wait(30)
        if any(task.text == "poison" for task in tasks):
            raise ValueError("poison")
        for task in tasks:
            task.done = task.text.upper()

    def finish(self, task, waited):
        assert waited > 0
        assert task.done == task.text.upper()
        if task.text == "heavy":
            assert self.finishing.wait(30)
        if task.text == "unfinished":
            raise ValueError("unfinished")
        return task.done

    async def submit(self, *texts, seconds=LATER):
        return await self.batcher.submit([Task(text) for text in texts], Deadline.after(seconds))

    async def first(self):
        """Run a first batch, so that the seconds per task are known and the worker is idle."""
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
    work = work(tasks=2)
    first = await work.hold()
    rest = await queued(work, ["a", "b", "c"])
    work.release.set()
    await asyncio.gather(first, *rest)
    assert work.batches == [["first"], ["a", "b"], ["c"]]


async def test_a_full_queue_refuses_at_once_and_takes_all_or_none(work):
    work = work(queue=2)
    first = await work.hold()
    (waiting,) = await queued(work, ["a"])
    with pytest.raises(
        OverloadedError, match=r"batching\.queue: 1 queued and 2 more exceed 2"
    ) as error:
        await work.submit("b", "c")
    assert 0 < error.value.retry_after <= 10
    (other,) = await queued(work, ["d"])
    with pytest.raises(OverloadedError):
        await work.submit("e")
    work.release.set()
    assert await asyncio.gather(first, waiting, other) == [["FIRST"], ["A"], ["D"]]
    assert work.batches == [["first"], ["a", "d"]]


async def test_each_task_of_a_submission_has_its_own_outcome(work):
    work = work(tasks=2)
    first = await work.hold()
    tasks = [Task(text) for text in ("good", "poison", "unfinished", "fine", "heavy")]
    submitted = work.batcher.submit_each(tasks, Deadline.after(LATER))
    each = asyncio.create_task(submitted)
    work.finishing.set()
    work.release.set()
    good, poison, unfinished, fine, heavy = await each
    assert (good, fine, heavy) == ("GOOD", "FINE", "HEAVY")
    assert (str(poison), str(unfinished)) == ("poison", "unfinished")
    assert await first == ["FIRST"]
    assert await work.batcher.submit_each([], Deadline.after(LATER)) == []


async def test_passed_deadlines_are_dropped_before_any_work(work):
    work = work()
    first = await work.hold()
    late, timely = await queued(work, ["late"], seconds=0) + await queued(work, ["timely"])
    work.release.set()
    with pytest.raises(DeadlineError, match="exceeded after"):
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


async def test_only_what_cannot_be_weighed_fails(work, monkeypatch):
    work, weigh = work(), Work.weigh

    def weigh_good(tasks):
        if any(task.text == "bad" for task in tasks):
            raise ValueError("bad")
        return weigh(work, tasks)

    first = await work.hold()
    monkeypatch.setattr(work, "weigh", weigh_good)
    good, bad, fine = await queued(work, ["good"], ["bad"], ["fine"])
    work.release.set()
    assert await asyncio.gather(first, good, fine) == [["FIRST"], ["GOOD"], ["FINE"]]
    with pytest.raises(ValueError, match="bad"):
        await bad


async def test_what_cannot_be_weighed_fails_and_the_worker_lives(work, monkeypatch):
    work = work()
    work.release.set()
    monkeypatch.setattr(work, "weigh", lambda tasks: tasks[0].nothing)
    with pytest.raises(AttributeError):
        await work.submit("a")
    monkeypatch.undo()
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
    monkeypatch.setattr(batching, "INLINE_SECONDS", math.inf)


async def test_brief_works_are_done_together_on_the_event_loop(work, quick):
    batches = work(tasks=3)
    batches.release.set()
    here = threading.get_ident()
    await batches.first()
    assert here not in batches.threads
    texts = [f"brief {i}" for i in range(3)]
    answers = await asyncio.gather(*(batches.submit(text) for text in texts))
    assert answers == [[text.upper()] for text in texts]
    assert batches.batches[1:] == [texts]
    assert batches.threads[1:] == [here]


async def test_many_brief_tasks_are_done_by_the_worker(work, monkeypatch):
    batches = work()
    batches.release.set()
    await batches.first()
    monkeypatch.setattr(batching, "INLINE_SECONDS", batches.batcher._pace.seconds * 2)
    await batches.submit(*(f"brief {i}" for i in range(3)))
    assert threading.get_ident() not in batches.threads


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
    await asyncio.sleep(5 * INLINE_SECONDS)
    batches.release.set()
    await first
    await batches.submit("brief")
    assert threading.get_ident() not in batches.threads


async def test_urgent_tasks_go_first_and_others_are_not_starved(work):
    batches = work(tasks=1)
    first = await batches.hold()
    late = [f"background {i}" for i in range(2)]
    urgent = [f"urgent {i:02}" for i in range(2 * URGENT_BATCHES)]
    tasks = await queued(batches, *([one] for one in late), *([one] for one in urgent))
    batches.release.set()
    await asyncio.gather(first, *tasks)
    order = [batch[0] for batch in batches.batches[1:]]
    assert [one for one in order if one in urgent] == urgent
    # The first batch was urgent as well.
    assert order.index(late[0]) == URGENT_BATCHES - 1
    assert order.index(late[1]) == 2 * URGENT_BATCHES


async def test_a_batch_has_one_urgency_and_background_ones_are_small(work):
    batches = work(background_tokens=30)
    first = await batches.hold()
    tasks = await queued(batches, ["background 1"], ["urgent"], ["background 2"], ["background 3"])
    batches.release.set()
    await asyncio.gather(first, *tasks)
    assert batches.batches[1:] == [["urgent"], ["background 1", "background 2"], ["background 3"]]


async def test_long_texts_are_weighed_a_bounded_number_of_characters_at_a_time(work):
    batches = work(characters=10)
    first = await batches.hold()
    tasks = await queued(batches, ["aaaaaa"], ["bbbb"], ["c"], ["dddddddddddddddd"])
    batches.release.set()
    await asyncio.gather(first, *tasks)
    assert batches.batches[1:] == [["aaaaaa", "bbbb"], ["c"], ["dddddddddddddddd"]]


async def test_tasks_that_are_being_finished_count_as_queued(work):
    batches = work(queue=2)
    batches.release.set()
    heavy = [asyncio.create_task(batches.submit("heavy")) for _ in range(2)]
    while batches.batcher._finishing < 2:
        await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await batches.submit("more")
    batches.finishing.set()
    await asyncio.gather(*heavy)
    assert await batches.submit("more") == ["MORE"]


async def test_a_deadline_that_passes_while_a_batch_runs_spares_finishing(work):
    batches, deadline = work(), SimpleNamespace(expired=False, remaining=LATER)
    late = asyncio.create_task(batches.batcher.submit([Task("heavy")], deadline))
    await asyncio.to_thread(batches.entered.wait, 30)
    deadline.expired = True
    batches.release.set()
    with pytest.raises(DeadlineError, match="exceeded"):
        await late
    assert await batches.submit("next") == ["NEXT"]
