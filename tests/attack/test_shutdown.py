"""SIGTERM under load: every call is answered, or UNAVAILABLE; a second signal ends the process."""

import asyncio
import signal
from collections import Counter

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from csplade.client.async_client import AsyncClient
from csplade.client.connection import ServiceError
from csplade.service.names import RETRIEVAL

pytestmark = pytest.mark.attack

CALLERS = 64


@pytest.mark.parametrize("round_", range(4))
async def test_sigterm_under_load_cancels_nothing(attacked, random_queries, round_):
    codes: Counter[str] = Counter()
    enough = asyncio.Event()

    async def ask(client, number, process):
        while process.poll() is None:
            try:
                await client.search(
                    random_queries[number % 50], k=100, with_document=True, timeout=30
                )
                codes["OK"] += 1
                if codes["OK"] > 2 * CALLERS:
                    enough.set()
            except ServiceError as error:
                codes[error.code] += 1

    with attacked(server__lame_duck_seconds=0.2) as server:
        async with AsyncClient(server.address) as client:
            callers = [asyncio.create_task(ask(client, i, server.process)) for i in range(CALLERS)]
            await enough.wait()
            server.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.process.wait, 60) == 0
            await asyncio.wait(callers, timeout=60)
    assert codes["UNAVAILABLE"] >= CALLERS
    assert set(codes) == {"OK", "UNAVAILABLE"}


def test_a_second_signal_ends_the_process(attacked):
    """However long it may drain."""
    with (
        attacked(server__drain_seconds=300) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stream = channel.stream_stream(f"/{RETRIEVAL}/SearchStream")(iter(()), timeout=300)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGINT)
        # Signals that wait together may arrive in any order.
        second = (128 + signal.SIGINT, 128 + signal.SIGTERM)
        assert server.process.wait(30) in (0, *second)
        stream.cancel()


async def test_a_watcher_that_does_not_read_blocks_no_health(attacked):
    """200 watchers with closed windows: health still answers, and SIGTERM still ends the server."""
    with attacked() as server:
        async with grpc.aio.insecure_channel(
            server.address, [("grpc.http2.lookahead_bytes", 1)]
        ) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(200)]
            for watch in watches:
                await watch.wait_for_connection()
            for _ in range(20):
                status = (await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)).status
                assert status == health_pb2.HealthCheckResponse.SERVING
            server.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.process.wait, 30) == 0
