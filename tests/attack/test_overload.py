"""More than the server can do: everything beyond its bounds is rejected with the time to retry."""

import asyncio
from collections import Counter

import grpc
import pytest

from csplade.client.async_client import AsyncClient
from csplade.client.connection import ServiceError
from csplade.service.names import RETRIEVAL
from csplade.v1 import retrieval_pb2 as pb

pytestmark = pytest.mark.attack


async def test_a_burst_is_answered_or_rejected_and_nothing_else(attacked, random_queries):
    """4,000 searches at once over 40 connections, for which gRPC itself would cancel some."""
    codes: Counter[str] = Counter()
    retries = []

    async def ask(client, query):
        try:
            await client.search(query, k=100, with_document=True, timeout=60)
            codes["OK"] += 1
        except ServiceError as error:
            codes[error.code] += 1
            retries.append(error.retry_after)

    with attacked(batching__queue=64, limits__in_flight=128) as server:
        clients = [AsyncClient(server.address) for _ in range(40)]
        for client in clients:  # connections that exist; streams of new ones may be refused
            await client.info()
        await asyncio.gather(*(ask(clients[i % 40], random_queries[i % 50]) for i in range(4000)))
        await clients[0].search(random_queries[0], timeout=10)
        for client in clients:
            await client.close()
    assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED"}
    assert codes["OK"] >= 64
    assert all(retry > 0 for retry in retries if retry is not None)


async def test_callers_without_a_key_cost_no_memory(attacked, tmp_path):
    """150 calls of 4 MB each without a key: their messages are not even read."""
    keys = tmp_path / "keys"
    keys.write_text("a-key\n")
    body = pb.EncodeRequest(texts=["x" * (4 * 2**20 - 100)], kind=1).SerializeToString()
    with attacked(security__keys_file=keys) as server:
        async with AsyncClient(server.address, key="a-key") as client:
            await client.info()
            before = server.rss

            async def attack(channel):
                call = channel.unary_unary(f"/{RETRIEVAL}/Encode")
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await call(body, timeout=60)
                return error.value.code()

            channels = [
                grpc.aio.insecure_channel(
                    server.address,
                    [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
                )
                for _ in range(10)
            ]
            codes = await asyncio.gather(*(attack(channels[i % 10]) for i in range(150)))
            grown = server.rss - before
            for channel in channels:
                await channel.close()
            await client.info()
    assert set(codes) == {grpc.StatusCode.UNAUTHENTICATED}
    assert grown < 150 * 2**20  # the bodies are 600 MB


async def test_millions_of_terms_are_rejected_by_their_number(attacked):
    """3.9 million indices: the length is checked before any of them is looked at."""
    vector = pb.SparseVector(indices=range(900_000), values=[1.0] * 100_000)
    body = pb.SearchRequest(query=pb.Query(vector=vector)).SerializeToString()
    with attacked() as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = channel.unary_unary(f"/{RETRIEVAL}/Search")
            with pytest.raises(grpc.aio.AioRpcError, match="900000 terms; at most 2048") as error:
                await call(body, timeout=60)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
