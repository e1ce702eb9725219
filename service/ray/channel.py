"""Messages from the ingress to the replicas on its machine, over Unix sockets.

A call through Ray takes milliseconds of processor time, nearly all of it on its way. Ray still
places, watches and replaces the replicas. To replicas on other machines, and wherever there is no
socket, calls go through Ray's handle.

A replica listens in a folder of its deployment that only this user may enter, because messages are
pickled. A message is its length in four bytes and then its content.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import os
import pickle
import stat
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from ...core.errors import InternalError
from .cluster import STOP_FILE

log = logging.getLogger(__name__)

LENGTH_BYTES = 4
# Calls of a replica in flight; further ones go through Ray, which also knows the replicas of other
# machines. Only heavy work has so many, and it makes up for Ray's time.
BUSY_CALLS = 2


class ChannelLostError(Exception):
    """The replica at the other end is gone."""


def folder_of(session: str, application: str, deployment: str) -> Path:
    """Return the folder of a deployment's sockets, the same for all processes on this machine.

    It is in the scratch directory of ``csplade serve --ray`` where that started Ray.

    Args:
        session: Name of Ray's session.
        application: Name of the application.
        deployment: Name of the deployment.
    """
    name = hashlib.sha256(f"{session}/{application}/{deployment}".encode()).hexdigest()[:16]
    stop_file = os.environ.get(STOP_FILE)
    if stop_file is not None:
        return Path(stop_file).parent / "sockets" / name
    return Path(tempfile.gettempdir()) / f"csplade-{os.getuid()}" / name


class _Messages(ABC, asyncio.Protocol):
    """Sends and receives messages."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(received[:LENGTH_BYTES], "big")
            if len(received) < end:
                return
            content = bytes(received[LENGTH_BYTES:end])
            del received[:end]
            self.handle(*pickle.loads(content))

    def send(self, *message: Any) -> None:
        """Send a message; one to an end that is gone is dropped."""
        content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._transport.write(len(content).to_bytes(LENGTH_BYTES, "big") + content)

    @abstractmethod
    def handle(self, *message: Any) -> None:
        """Do what a message asks for."""


class _Answering(_Messages):
    """The end of a replica: calls its methods."""

    def __init__(self, replica: object) -> None:
        super().__init__()
        self._replica = replica
        self._calls: dict[int, asyncio.Task[None]] = {}

    def handle(self, number: int, method: str | None, arguments: Sequence[Any]) -> None:
        if method is not None:
            self._calls[number] = asyncio.ensure_future(self._answer(number, method, arguments))
        elif (call := self._calls.get(number)) is not None:
            call.cancel()  # nobody waits for it

    def connection_lost(self, _: Exception | None) -> None:
        for call in self._calls.values():
            call.cancel()

    async def _answer(self, number: int, method: str, arguments: Sequence[Any]) -> None:
        try:
            self.send(number, await getattr(self._replica, method)(*arguments))
        except Exception as error:
            log.exception("a message of the ingress cannot be answered")
            self.send(number, InternalError(f"{type(error).__name__} in a replica"))
        finally:
            del self._calls[number]


async def listen(replica: object, folder: Path, name: str) -> asyncio.Server | None:
    """Answer calls of a replica's methods, which return errors as values.

    Returns:
        What listens; None where it cannot, and calls go through Ray.
    """
    try:
        _make_private(folder.parent)
        _make_private(folder)
        starting = folder / f"{name}.starting"
        server = await asyncio.get_running_loop().create_unix_server(
            lambda: _Answering(replica), starting
        )
        starting.rename(folder / f"{name}.socket")  # seen by ingresses once it accepts
    except OSError as error:
        log.warning("calls go through Ray: %s: %s", folder, error)
        return None
    return server


def _make_private(folder: Path) -> None:
    """Make a folder that only this user may enter. Raises OSError if it is another's."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError("not a folder of this user alone")


class Channel(_Messages):
    """The end of the ingress: one connection to one replica, for many calls at once.

    Attributes:
        lost: Whether the replica is gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lost = False
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    @property
    def calls(self) -> int:
        """Calls that are not answered yet."""
        return len(self._waiting)

    def close(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    async def call(self, method: str, arguments: Sequence[Any]) -> Any:
        """Call a method of the replica; raises ChannelLostError if it goes before it answers."""
        if self.lost:
            raise ChannelLostError
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self.send(number, method, arguments)
            return await future
        finally:
            del self._waiting[number]
            if future.cancelled():
                self.send(number, None, ())

    def handle(self, number: int, result: Any) -> None:
        """Give the result to the call."""
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(result)

    def connection_lost(self, _: Exception | None) -> None:
        """End the calls: the replica is gone."""
        self.lost = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ChannelLostError())


class Channels:
    """The connections to the replicas of one deployment on this machine.

    Args:
        folder: Where they listen.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[Path, Channel] = {}

    async def refresh(self) -> None:
        """Connect to replicas that are new, forget those that are gone."""
        self._open = {path: one for path, one in self._open.items() if not one.lost}
        for path in self._folder.glob("*.socket"):
            if path in self._open:
                continue
            try:
                loop = asyncio.get_running_loop()
                _, self._open[path] = await loop.create_unix_connection(Channel, str(path))
            except ConnectionRefusedError:
                with suppress(OSError):
                    path.unlink()  # of a replica that ended
            except OSError as error:
                log.warning("calls go through Ray: %s: %s", path, error)

    def close(self) -> None:
        """End all calls and connections; :meth:`refresh` opens new ones."""
        for one in self._open.values():
            one.close()

    def choose(self) -> Channel | None:
        """Return the channel with the fewest calls; None if there is none, or all are busy."""
        usable = [one for one in self._open.values() if not one.lost and one.calls < BUSY_CALLS]
        return min(usable, key=lambda one: one.calls, default=None)
