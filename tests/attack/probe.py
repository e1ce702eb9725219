"""Measure a steady probe alone and beside each attack: ``python tests/attack/probe.py``.

The server has one core, probe and attacker share the others, the attacker at the lowest priority.
So what the probe loses, it loses in the server. Times depend on the machine: the table is printed,
and no test asks how long anything took.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from csplade.client.async_client import AsyncClient
from csplade.client.connection import ServiceError
from csplade.core.machine import hardware
from csplade.service.ray.cluster import free_port
from csplade.v1 import retrieval_pb2 as pb
from csplade.v1 import retrieval_pb2_grpc as rpc

SERVICE = "csplade.v1.RetrievalService"
KEY = "the-key-of-the-probe"
METADATA = (("authorization", f"Bearer {KEY}"),)
# `csplade serve` with a store that takes three seconds to read documents; the probe asks for none.
SERVE = """
import time
from csplade.cli.main import main
from csplade.index.storage.documents import DocumentStore

read = DocumentStore.documents

def stalled(self, ordinals):
    time.sleep(3)
    return read(self, ordinals)

DocumentStore.documents = stalled
main()
"""
PROBE_TIMEOUT = 30.0  # seconds; a probe that is later counts as failed


@dataclass(frozen=True)
class Place:
    """Where the server listens: ``host:port`` of gRPC and of metrics."""

    address: str
    metrics: str


async def million_terms(place: Place) -> AsyncIterator[None]:
    """Searches of 3.9 million indices, one after the other"""
    vector = pb.SparseVector(indices=[1] * 3_900_000)
    body = pb.SearchRequest(query=pb.Query(vector=vector)).SerializeToString()
    async for _ in calls(place, "Search", body):
        yield


async def long_texts(place: Place) -> AsyncIterator[None]:
    """Encodes of 62 texts of 64 KB, one after the other"""
    texts = ["searching " * 6550] * 62
    body = pb.EncodeRequest(texts=texts, kind=pb.TEXT_KIND_DOCUMENT).SerializeToString()
    async for _ in calls(place, "Encode", body):
        yield


async def stalled_store(place: Place) -> AsyncIterator[None]:
    """8 callers of documents from a store that takes 3 s"""
    vector = pb.SparseVector(indices=range(40), values=[1.0] * 40)
    request = pb.SearchRequest(query=pb.Query(vector=vector), with_document=True)
    async for _ in calls(place, "Search", request.SerializeToString(), callers=8):
        yield


async def without_key(place: Place) -> AsyncIterator[None]:
    """8 callers of Encode with 4 MB and no key"""
    body = pb.EncodeRequest(texts=["x" * (4 * 2**20 - 100)], kind=1).SerializeToString()
    async for _ in calls(place, "Encode", body, callers=8, metadata=()):
        yield


async def no_messages(place: Place) -> AsyncIterator[None]:
    """16 callers of bytes that are no message"""
    async for _ in calls(place, "Search", b"\x0a\xff\xff\xff\xff\x0f", callers=16):
        yield


async def slow_scrapers(place: Place) -> AsyncIterator[None]:
    """400 scrapers of metrics that read nothing"""
    host, port = place.metrics.rsplit(":", 1)

    async def scrape() -> None:
        reader, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(b"GET /metrics HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    async for _ in repeated(scrape, 400):
        yield


async def idle_streams(place: Place) -> AsyncIterator[None]:
    """1,000 streams without a message"""
    async with grpc.aio.insecure_channel(place.address) as channel:
        stub = rpc.RetrievalServiceStub(channel)
        streams = []
        for _ in range(1000):
            streams.append(stub.SearchStream(metadata=METADATA))
            await streams[-1].wait_for_connection()
            yield
        await asyncio.Event().wait()


async def closed_windows(place: Place) -> AsyncIterator[None]:
    """200 watchers of health and 50 streams of explained answers that nobody reads"""
    options = [("grpc.http2.lookahead_bytes", 1)]
    vector = pb.SparseVector(indices=range(40), values=[1.0] * 40)
    request = pb.SearchRequest(query=pb.Query(vector=vector), k=300, explain=True)
    async with grpc.aio.insecure_channel(place.address, options) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(200)]
        stub = rpc.RetrievalServiceStub(channel)
        streams = [stub.SearchStream(metadata=METADATA) for _ in range(50)]
        for sequence in range(1 << 30):
            for stream in streams:
                with contextlib.suppress(asyncio.TimeoutError):
                    message = pb.SearchStreamRequest(sequence=sequence, request=request)
                    await asyncio.wait_for(asyncio.shield(stream.write(message)), 0.1)
                yield
        assert watches


async def connections(place: Place) -> AsyncIterator[None]:
    """64 callers that connect, say nothing and leave"""
    host, port = place.address.rsplit(":", 1)

    async def connect() -> None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()

    async for _ in repeated(connect, 64):
        yield


ATTACKS: dict[str, Callable[[Place], AsyncIterator[None]]] = {
    one.__name__: one
    for one in (
        million_terms, long_texts, stalled_store, without_key, no_messages, slow_scrapers,
        idle_streams, closed_windows, connections,
    )
}  # fmt: skip


async def calls(
    place: Place,
    method: str,
    body: bytes,
    callers: int = 1,
    metadata: tuple[tuple[str, str], ...] = METADATA,
) -> AsyncIterator[None]:
    """Send the same bytes again and again; yield after each answer or rejection."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(place.address, options) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{method}")

        async def ask() -> None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await call(body, metadata=metadata, timeout=600)

        async for _ in repeated(ask, callers):
            yield


async def repeated(act: Callable[[], object], callers: int) -> AsyncIterator[None]:
    """Let so many callers do something again and again; yield each time that one has done it."""
    done: asyncio.Queue[None] = asyncio.Queue()

    async def call() -> None:
        while True:
            await act()
            await done.put(None)

    tasks = [asyncio.create_task(call()) for _ in range(callers)]
    try:
        while True:
            await done.get()
            yield
    finally:
        for task in tasks:
            task.cancel()


async def attack(name: str, place: Place) -> None:
    """Attack until standard input ends; print ``begun`` at first, and the number of acts last."""
    os.nice(19)
    count = 0
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))

    async def act() -> None:
        nonlocal count
        async for _ in ATTACKS[name](place):
            count += 1

    acting = asyncio.create_task(act())
    print("begun", flush=True)
    await asyncio.wait((acting, ended), return_when=asyncio.FIRST_COMPLETED)
    if acting.done():
        acting.result()
    print(count, flush=True)
    os._exit(0)


@dataclass
class Measured:
    """What the probe saw beside an attack.

    Attributes:
        seconds: from when a request was due to its answer, of each answered one.
        failed: codes of the others.
        acts: what the attacker got done meanwhile.
    """

    seconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    acts: int = 0

    def milliseconds(self, percent: float) -> float:
        """Return a percentile of the answered requests."""
        return 1e3 * float(np.percentile(self.seconds, percent)) if self.seconds else float("nan")


async def probe(place: Place, seconds: float, rate: float) -> Measured:
    """Search with a vector at a steady rate, whatever comes of the requests before."""
    measured, query = Measured(), dict.fromkeys(range(0, 40, 2), 1.0)

    async def ask(due: float) -> None:
        try:
            await client.search(query, k=10, timeout=PROBE_TIMEOUT)
            measured.seconds.append(time.perf_counter() - due)
        except ServiceError as error:
            measured.failed[error.code] += 1

    async with AsyncClient(place.address, key=KEY) as client:
        await client.search(query, k=10)
        start, asked = time.perf_counter(), []
        for number in range(round(seconds * rate)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asked.append(asyncio.create_task(ask(due)))
        await asyncio.gather(*asked)
    return measured


@contextlib.contextmanager
def serving(index: Path, *options: str) -> Iterator[Place]:
    """Serve an index on the first core."""
    with tempfile.TemporaryDirectory() as scratch:
        keys, log = Path(scratch) / "keys", Path(scratch) / "log"
        keys.write_text(f"{KEY}\n")
        metrics = str(free_port())
        arguments = [str(index), "--port", "0", "--metrics-port", metrics, "--keys-file", str(keys)]
        arguments += ["--threads", "1", "--set", "logging.requests=false", *options]
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                [sys.executable, "-c", SERVE, "serve", *arguments],
                stdout=subprocess.PIPE, stderr=errors, text=True,
            ) as server,
        ):  # fmt: skip
            assert server.stdout is not None
            try:
                address = server.stdout.readline().strip()
                if not address:
                    raise SystemExit(log.read_text())
                pin(server.pid, {min(os.sched_getaffinity(0))})
                yield Place(address, f"127.0.0.1:{metrics}")
            finally:
                server.kill()


def pin(process: int, cores: set[int]) -> None:
    """Keep all threads of a process on some cores, where there are others as well."""
    if cores < os.sched_getaffinity(0):
        for thread in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread.name), cores)


def measure(place: Place, name: str | None, seconds: float, rate: float) -> Measured:
    """Run the probe, beside an attack if one is named."""
    if name is None:
        return asyncio.run(probe(place, seconds, rate))
    command = [sys.executable, __file__, "--attack", name, place.address, place.metrics]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as attacker:
        assert attacker.stdin is not None
        assert attacker.stdout is not None
        assert attacker.stdout.readline() == "begun\n"
        measured = asyncio.run(probe(place, seconds, rate))
        attacker.stdin.close()
        measured.acts = int(attacker.stdout.readline())
    return measured


def rows(measured: dict[str, tuple[Measured, Measured]]) -> Iterator[str]:
    """Yield the lines of the table: for each attack the probe alone, just before, and beside it."""
    yield "| attack | acts | answered | failed | p50 ms alone | beside | p99 ms alone | beside | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, (alone, beside) in measured.items():
        failed = ", ".join(f"{count} {code}" for code, count in beside.failed.items()) or "0"
        cells = [said(name), f"{beside.acts:,}", str(len(beside.seconds)), failed]
        for percent in (50, 99):
            cells += [f"{one.milliseconds(percent):.2f}" for one in (alone, beside)]
        cells.append(f"x {beside.milliseconds(99) / alone.milliseconds(99):.1f}")
        yield "| " + " | ".join(cells) + " |"


def said(name: str) -> str:
    """Return what an attack does, in words."""
    return " ".join((ATTACKS[name].__doc__ or name).split())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index", type=Path, nargs="?", help="an index with the model of its texts")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rate", type=float, default=50, help="probes a second")
    parser.add_argument("--only", choices=ATTACKS, action="append", help="leave out the others")
    parser.add_argument("--attack", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.attack:
        asyncio.run(attack(given.attack[0], Place(*given.attack[1:])))
        return
    if given.index is None:
        parser.error("name the index")
    cores = os.sched_getaffinity(0)
    measured = {}
    for name in given.only or ATTACKS:
        with serving(given.index) as place:
            os.sched_setaffinity(0, cores - {min(cores)} or cores)
            alone = measure(place, None, given.seconds, given.rate)
            measured[name] = alone, measure(place, name, given.seconds, given.rate)
            os.sched_setaffinity(0, cores)
    print(
        f"{hardware()}; {given.rate:g} probes/s for {given.seconds:g} s; "
        f"{time.strftime('%Y-%m-%d')}\n"
    )
    print("\n".join(rows(measured)))


if __name__ == "__main__":
    main()
