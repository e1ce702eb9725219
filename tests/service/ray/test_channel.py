"""Calls over sockets: answered together, given up, and ended when the replica goes."""

import asyncio

import pytest

from csplade.core.errors import InternalError
from csplade.service.ray import channel
from csplade.service.ray.channel import BUSY_CALLS, ChannelLostError, Channels
from csplade.service.ray.cluster import STOP_FILE


class Replica:
    def __init__(self):
        self.entered, self.release, self.cancelled = (
            asyncio.Event(),
            asyncio.Event(),
            asyncio.Event(),
        )

    async def echo(self, *values):
        return values

    async def wait(self):
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return "released"

    async def fail(self):
        raise ZeroDivisionError


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "user" / "deployment"


@pytest.fixture
async def replica(folder):
    """A replica that listens."""
    made = Replica()
    server = await channel.listen(made, folder, "one")
    yield made
    server.close()


@pytest.fixture
async def channels(replica, folder):
    found = Channels(folder)
    await found.refresh()
    return found


async def test_calls_share_a_connection_and_are_answered_when_they_are_ready(replica, channels):
    one = channels.choose()
    slow = asyncio.create_task(one.call("wait", ()))
    await replica.entered.wait()
    large = b"x" * 3_000_000
    calls = (one.call("echo", (number, large)) for number in range(3))
    assert await asyncio.gather(*calls) == [(number, large) for number in range(3)]
    assert one.calls == 1
    replica.release.set()
    assert await slow == "released"
    assert one.calls == 0


async def test_a_busy_replica_leaves_the_choice_to_ray(replica, channels):
    one = channels.choose()
    calls = [asyncio.create_task(one.call("wait", ())) for _ in range(BUSY_CALLS)]
    await replica.entered.wait()
    assert channels.choose() is None
    replica.release.set()
    assert await asyncio.gather(*calls) == ["released"] * BUSY_CALLS
    assert channels.choose() is one


async def test_a_call_that_nobody_waits_for_is_cancelled(replica, channels):
    call = asyncio.create_task(channels.choose().call("wait", ()))
    await replica.entered.wait()
    call.cancel()
    await replica.cancelled.wait()
    assert await channels.choose().call("echo", (1,)) == (1,)


async def test_an_unexpected_error_is_a_value(channels):
    error = await channels.choose().call("fail", ())
    assert isinstance(error, InternalError)
    assert str(error) == "ZeroDivisionError in a replica"


async def test_calls_end_when_the_replica_goes(replica, channels, folder):
    one = channels.choose()
    call = asyncio.create_task(one.call("wait", ()))
    await replica.entered.wait()
    channels.close()
    with pytest.raises(ChannelLostError):
        await call
    with pytest.raises(ChannelLostError):
        await one.call("echo", ())
    assert channels.choose() is None
    await replica.cancelled.wait()  # the replica hears of it
    await channels.refresh()
    assert await channels.choose().call("echo", (2,)) == (2,)


async def test_the_socket_of_a_replica_that_ended_is_removed(folder):
    server = await channel.listen(Replica(), folder, "one")
    server.close()
    assert list(folder.iterdir())
    channels = Channels(folder)
    await channels.refresh()
    assert channels.choose() is None
    assert not list(folder.iterdir())


async def test_the_least_busy_replica_is_called(replica, channels, folder):
    other = Replica()
    server = await channel.listen(other, folder, "two")
    await channels.refresh()
    call = asyncio.create_task(channels.choose().call("wait", ()))
    await asyncio.wait(
        [asyncio.ensure_future(one.entered.wait()) for one in (replica, other)],
        return_when=asyncio.FIRST_COMPLETED,
    )
    idle = other if replica.entered.is_set() else replica
    second = asyncio.create_task(channels.choose().call("wait", ()))
    await idle.entered.wait()
    replica.release.set()
    other.release.set()
    assert await asyncio.gather(call, second) == ["released", "released"]
    server.close()


def test_sockets_are_in_the_scratch_directory_of_the_cluster(monkeypatch, tmp_path):
    monkeypatch.setenv(STOP_FILE, str(tmp_path / "stopping"))
    one = channel.folder_of("session", "csplade", "shard-0")
    assert one.parent == tmp_path / "sockets"
    assert one != channel.folder_of("session", "csplade", "shard-1")
    monkeypatch.delenv(STOP_FILE)
    assert channel.folder_of("session", "csplade", "shard-0").name == one.name


async def test_a_folder_that_others_may_enter_is_not_used(folder, caplog):
    folder.parent.mkdir(mode=0o755)
    assert await channel.listen(Replica(), folder, "one") is None
    assert "calls go through Ray" in caplog.text
    await Channels(folder).refresh()
