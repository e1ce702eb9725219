"""Versions are loaded beside those held, and retired once nobody asks for them."""

import asyncio
import threading

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from csplade.service.ray.messages import MovedError
from csplade.service.ray.versions import Target, Versions


class Thing:
    """Stands for a backend."""

    def __init__(self, name):
        self.name, self.closed = name, threading.Event()

    def close(self):
        self.closed.set()


async def test_the_version_before_is_held_until_nobody_asks_for_it():
    things = {}
    loading = threading.Event()

    def load(target):
        if target.version != "1":
            assert loading.wait(10)
        if target.version == "bad":
            raise ValueError("no such index")
        return things.setdefault(target.version, Thing(target.version))

    versions = Versions(load, retire_seconds=0.2)
    await versions.update(Target(version="1"))
    await versions.update(Target(version="2"))
    assert versions.names == ("1",)  # not yet loaded, and nobody waited for it
    with pytest.raises(MovedError) as error:
        versions.backend("2")
    assert error.value.versions == ("1",)
    loading.set()
    while versions.names != ("2", "1"):
        await asyncio.sleep(0.01)
    assert versions.backend("1") is things["1"]
    assert versions.newest is versions.backend("2") is things["2"]
    while versions.names != ("2",):
        await asyncio.sleep(0.01)
    assert await asyncio.to_thread(things["1"].closed.wait, 5)
    assert not things["2"].closed.is_set()
    await versions.update(Target(version="bad"))
    await versions._following
    assert versions.names == ("2",)  # what cannot be loaded changes nothing
