"""More work than there is time, clients that do not read, connections that come and go: nothing
piles up.
"""

import asyncio
import contextlib
import os
import resource
import sys
import time
from collections import Counter

import grpc
import psutil
import pytest

from csplade.client.async_client import AsyncClient
from csplade.client.connection import ServiceError
from csplade.engine.collection import Collection
from csplade.index import Index
from csplade.service.grpc.server import Server
from csplade.v1 import retrieval_pb2 as pb
from csplade.v1 import retrieval_pb2_grpc as rpc

SERVICE_SECONDS = 0.01  # what a search takes here: 100 a second
QUEUE = 20


class SlowIndex(Index):
    """Takes the same time for every search, and counts them."""

    searched = 0

    @property
    def snapshot(self):
        return self

    def search(self, queries, k, mask=None, **options):
        self.searched += len(queries)
        time.sleep(SERVICE_SECONDS)
        return super().search(queries, k, mask, **options)


@pytest.fixture
async def slow(vector_index, settings):
    """A server of 100 queries a second, and its index."""
    index = SlowIndex.open(vector_index, threads=1)
    chosen = settings(
        batching__queries=1, batching__queue=QUEUE, limits__encode_texts=1,
        limits__batch_searches=1, limits__stream_in_flight=8,
        logging__requests=False,
    )  # fmt: skip
    server = Server(chosen, lambda _: Collection(index))
    await server.start()
    await server.load()
    index.searched = 0  # a server that starts searches once
    yield server, index
    await server.drain()
    await server.stop()


def census():
    """Tasks of this loop, and open files of this process."""
    return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))


async def back_to(before, slack=2):
    """Wait until there are no more tasks and files than before, but for a few of grpc's own."""
    for _ in range(1000):
        if all(now <= then + slack for now, then in zip(census(), before, strict=True)):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_four_times_too_much_is_refused_at_once_and_leaves_nothing(slow, random_queries):
    server, index = slow
    process, seconds, rate = psutil.Process(), 3.0, 400
    accepted, refused, strange = [], [], []

    async def ask(client, query):
        started = time.perf_counter()
        try:
            await client.search(query, timeout=30)
            accepted.append(time.perf_counter() - started)
        except ServiceError as error:
            (refused if error.code == "RESOURCE_EXHAUSTED" else strange).append(error)

    async with AsyncClient(server.address) as client:
        await client.search(random_queries[0])
        before, tasks = process.memory_info().rss, set()
        start = time.perf_counter()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
            tasks.add(asyncio.create_task(ask(client, random_queries[number % 50])))
        # Only what waits in the queue is still to be answered.
        stopped = time.perf_counter()
        await asyncio.gather(*tasks)
        assert time.perf_counter() - stopped < 5
        await client.search(random_queries[0], timeout=5)
    assert not strange
    assert len(refused) > len(accepted) > 10
    assert all(0.01 <= error.retry_after <= 10 for error in refused)
    # What was rejected was not worked for; one more search came before, and one after.
    assert index.searched == len(accepted) + 2
    assert process.memory_info().rss - before < 64 * 2**20
    assert server.metrics.queue_depth._value.get() == 0


async def test_a_client_that_does_not_read_is_not_worked_for(slow):
    server, index = slow
    before = census()
    sent = 0
    vector = pb.SparseVector(indices=list(range(0, 500, 2)), values=[1.0] * 250)
    request = pb.SearchRequest(query=pb.Query(vector=vector), k=300, explain=True)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stream = rpc.RetrievalServiceStub(channel).SearchStream()

        async def send():
            nonlocal sent
            for sequence in range(5000):
                await stream.write(pb.SearchStreamRequest(sequence=sequence, request=request))
                sent += 1

        sending = asyncio.create_task(send())
        searched = -1
        while searched != index.searched:  # until nothing more is done
            searched = index.searched
            await asyncio.sleep(1.0)
        assert 8 <= searched < 200
        assert sent < 5000
        async with AsyncClient(server.address) as other:  # while others are served
            assert (await other.search({1: 1.0}, timeout=5)).hits
        sending.cancel()
        stream.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert await back_to(before)


async def test_streams_that_are_dropped_or_half_closed_leave_nothing(slow, random_queries):
    server, _ = slow
    before = census()
    one = pb.SearchStreamRequest(
        request=pb.SearchRequest(query=pb.Query(vector=pb.SparseVector(indices=[1], values=[1.0])))
    )
    for _ in range(5):
        async with grpc.aio.insecure_channel(
            server.address, [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = rpc.RetrievalServiceStub(channel)
            streams = [stub.SearchStream() for _ in range(20)]
            for stream in streams:
                await stream.write(one)
            for stream in streams[:10]:
                await stream.done_writing()
            await asyncio.sleep(0.05)  # some are answered, most are not; then the connection goes
    assert await back_to(before)
    async with AsyncClient(server.address) as client:
        assert (await client.search(random_queries[0])).hits


@contextlib.asynccontextmanager
async def a_connection(address):
    """A channel that shares no connection with another one."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        yield channel


async def test_a_connection_too_many_is_unavailable_at_once(vector_index, settings):
    server = Server(settings(vector_index, limits__connections=3))
    await server.start()
    await server.load()

    async def info(channel):
        await rpc.RetrievalServiceStub(channel).Info(pb.InfoRequest(), timeout=30)

    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(a_connection(server.address)) for _ in range(3)]
        for channel in channels:
            await info(channel)
        for _ in range(5):
            async with a_connection(server.address) as one_more:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await info(one_more)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        await asyncio.gather(*map(info, channels))
    for _ in range(1000):  # until gRPC has seen that they have gone
        async with a_connection(server.address) as channel:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await info(channel)
                break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("the places of connections that have gone stay taken")
    await server.drain()
    await server.stop()


async def test_a_connection_has_so_many_requests_at_a_time(held, settings, random_queries):
    """Its client queues the rest; one that comes just as a place becomes free may be refused."""
    server = Server(settings(limits__connection_streams=4), held.opener)
    await server.start()
    await server.load()
    codes, most = Counter(), 0

    async def search(client, query):
        try:
            await client.search(query)
            codes["OK"] += 1
        except ServiceError as error:
            codes[error.code] += 1

    async with AsyncClient(server.address) as client, a_connection(server.address) as other:
        await client.info()  # the client knows the limit once it is connected
        tasks = [asyncio.create_task(search(client, query)) for query in random_queries[:12]]
        await asyncio.to_thread(held.index.entered.wait, 30)
        for _ in range(20):  # what comes after them is answered
            await rpc.RetrievalServiceStub(other).Info(pb.InfoRequest(), timeout=30)
            most = max(most, server._lifecycle.in_flight)
        held.index.release.set()
        await asyncio.gather(*tasks)
    await server.drain()
    await server.stop()
    assert 1 <= most <= 4
    assert set(codes) <= {"OK", "UNAVAILABLE"}
    assert codes["OK"] >= 4


CONNECT = """
import socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sockets = []
for number in range(count):
    one = socket.create_connection((host, port), timeout=60)
    if number % 3 == 1:
        one.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n")  # and never a frame
    elif number % 3 == 2:
        one.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
    sockets.append(one)
print("connected", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
async def test_ten_thousand_connections_that_say_nothing_or_nonsense_leave_nothing(
    slow, random_queries
):
    server, _ = slow
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 11_000:
        pytest.skip(f"this user may open {hard} files, 11,000 are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 11_000), hard))
    host, port = server.address.rsplit(":", 1)
    before = census()
    command = [sys.executable, "-c", CONNECT, host, port, "10000"]
    child = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert await child.stdout.readline() == b"connected\n"
    async with AsyncClient(server.address) as client:
        assert (await client.search(random_queries[0], timeout=10)).hits
    assert census()[0] - before[0] < 100  # none of them is a task
    child.stdin.close()
    await child.wait()
    assert await back_to(before)
