"""Questions that share messages: when they do, who gets which answer, and what happens to those
that are given up.
"""

import asyncio
from contextlib import suppress

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from csplade.core.errors import OverloadedError
from csplade.service.ray.message_batcher import MAX_REQUESTS, MessageBatcher


class Far:
    """What a batcher sends to: answers each request with its square, when it may."""

    def __init__(self) -> None:
        self.messages: list[list[int]] = []
        self.cancelled = 0
        self.may = asyncio.Event()

    async def __call__(self, requests):
        self.messages.append(list(requests))
        try:
            await self.may.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [ValueError(request) if request < 0 else request**2 for request in requests]


async def answers_of(tasks):
    return [answer for answer, _ in await asyncio.gather(*tasks)]


async def asked(batcher, requests):
    tasks = [batcher.submit(request) for request in requests]
    await asyncio.sleep(0)  # the first have been sent
    await asyncio.sleep(0)
    return tasks


async def test_the_first_go_alone_and_what_comes_meanwhile_shares():
    far = Far()
    batcher, count = MessageBatcher(far, 1000), 1 + MAX_REQUESTS + 3
    tasks = [task for request in range(count) for task in await asked(batcher, [request])]
    assert far.messages == [[0]]
    far.may.set()
    assert await answers_of(tasks) == [request**2 for request in range(count)]
    assert [len(message) for message in far.messages] == [1, MAX_REQUESTS, 3]


async def test_a_full_batcher_has_no_room_until_a_message_has_taken_what_waits():
    far = Far()
    batcher = MessageBatcher(far, 3)
    tasks = await asked(batcher, [0])
    assert batcher.queued == 0
    tasks += await asked(batcher, range(1, 4))
    assert far.messages == [[0]]
    with pytest.raises(
        OverloadedError, match=r"batching\.queue: 3 queued and 1 more exceed 3"
    ) as error:
        batcher.submit(4)
    assert error.value.retry_after > 0
    far.may.set()
    outcomes = await asyncio.gather(*tasks)
    assert [answer for answer, _ in outcomes] == [request**2 for request in range(4)]
    assert outcomes[0][1] < outcomes[-1][1]  # nanoseconds that each has waited
    assert batcher.queued == 0


async def test_whatever_the_moment_a_request_comes_in_a_message_takes_it():
    far = Far()
    far.may.set()
    batcher, answers = MessageBatcher(far, 1), []
    for number in range(100):  # one of them comes just when a sender has found that nothing waits
        with suppress(OverloadedError):
            answers.append(batcher.submit(number))
        for _ in range(number % 7):
            await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert len(await answers_of(answers)) > 10


async def test_several_messages_share_what_waits():
    far = Far()
    batcher = MessageBatcher(far, 1000)
    batcher.messages = 3
    tasks = await asked(batcher, range(9))
    assert [len(message) for message in far.messages] == [3, 2, 2]
    far.may.set()
    assert await answers_of(tasks) == [request**2 for request in range(9)]


async def test_an_error_is_that_of_its_request():
    far = Far()
    far.may.set()
    outcomes = await asyncio.gather(
        *(MessageBatcher(far, 1000).submit(one) for one in (2, -3, 4)), return_exceptions=True
    )
    assert [answer for answer, _ in outcomes[::2]] == [4, 16]
    assert isinstance(outcomes[1], ValueError)


async def test_a_failed_message_fails_all_of_its_requests():
    async def broken(requests):
        raise OSError("the line is down")

    batcher = MessageBatcher(broken, 1000)
    outcomes = await asyncio.gather(
        *(batcher.submit(one) for one in range(9)), return_exceptions=True
    )
    assert all(isinstance(outcome, OSError) for outcome in outcomes)


async def test_a_message_is_given_up_with_its_last_request():
    far = Far()
    batcher = MessageBatcher(far, 1000)
    blocking = await asked(batcher, [1])
    together = await asked(batcher, [10, 11, 12])
    together[0].cancel()
    await asyncio.wait(together[:1])
    blocking[0].cancel()
    await asyncio.wait(blocking)
    while far.cancelled < 1 or len(far.messages) == 1:
        await asyncio.sleep(0)
    assert far.messages[-1] == [11, 12]  # what was given up before was not sent
    together[1].cancel()
    await asyncio.wait(together[1:2])
    assert far.cancelled == 1
    far.may.set()
    assert await answers_of(together[2:]) == [144]
    with pytest.raises(asyncio.CancelledError):
        await together[1]
