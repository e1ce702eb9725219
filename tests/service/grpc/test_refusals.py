"""Rejections: malformed requests, overload, deadlines, loading, draining, failures."""

import asyncio
import io
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from csplade.client.async_client import AsyncClient
from csplade.client.client import Client
from csplade.client.connection import ServiceError
from csplade.core.errors import StorageError
from csplade.engine import deadline
from csplade.engine.collection import Collection
from csplade.kernels.score import cpu
from csplade.service.grpc.server import Server, running
from csplade.service.names import RETRIEVAL
from csplade.service.telemetry import logs
from csplade.v1 import retrieval_pb2 as pb
from csplade.v1 import retrieval_pb2_grpc as rpc


def test_a_full_queue_is_resource_exhausted_with_retry_info(held, settings, random_queries):
    # A server of one waiting place: one query is in the worker, one waits, one is too many.
    with (
        running(
            settings(batching__queue=1, limits__encode_texts=1, limits__batch_searches=1),
            held.opener,
        ) as server,
        Client(server.address) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(client.search, random_queries[0])
        assert held.index.entered.wait(30)
        waiting = pool.submit(client.search, random_queries[1])
        assert until(lambda: server.metrics.queue_depth._value.get() == 1)
        with pytest.raises(ServiceError, match=r"batching\.queue: 1 queued") as error:
            client.search(random_queries[2])
        assert error.value.code == "RESOURCE_EXHAUSTED"
        assert 0.01 <= error.value.retry_after <= 10
        details = dict(error.value.__cause__.trailing_metadata())["grpc-status-details-bin"]
        assert b"type.googleapis.com/google.rpc.RetryInfo" in details
        (answer,) = stream_of(server, random_queries[2])
        assert answer.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert 10 <= answer.error.retry_after_ms <= 10_000
        held.index.release.set()
        assert first.result().hits
        assert waiting.result().hits
    assert held.index.searched == [1, 1]


def test_retry_info_is_a_google_rpc_status():
    """Decode with the published field numbers: Status 1 code, 2 message, 3 details; RetryInfo 1
    delay.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    from csplade.core.errors import OverloadedError
    from csplade.service.grpc.status import status_of

    file = descriptor_pb2.FileDescriptorProto(
        name="status.proto", package="t", syntax="proto3",
        dependency=["google/protobuf/any.proto", "google/protobuf/duration.proto"],
    )  # fmt: skip
    status = file.message_type.add(name="Status")
    status.field.add(name="code", number=1, type=5, label=1)
    status.field.add(name="message", number=2, type=9, label=1)
    status.field.add(name="details", number=3, type=11, label=3, type_name=".google.protobuf.Any")
    info = file.message_type.add(name="RetryInfo")
    info.field.add(
        name="retry_delay", number=1, type=11, label=1, type_name=".google.protobuf.Duration"
    )
    pool = descriptor_pool.Default()
    pool.Add(file)
    message = "full " * 39  # a length of two varint bytes
    metadata = dict(status_of(OverloadedError(message, 1.25)).metadata)
    decoded = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Status"))()
    decoded.ParseFromString(metadata["grpc-status-details-bin"])
    assert (decoded.code, decoded.message) == (8, message.strip())
    delay = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.RetryInfo"))()
    delay.ParseFromString(decoded.details[0].value)
    assert (delay.retry_delay.seconds, delay.retry_delay.nanos) == (1, 250_000_000)
    assert metadata["grpc-retry-pushback-ms"] == "1250"


def test_a_deadline_that_passes_in_the_queue_costs_no_scoring(held, settings, random_queries):
    with (
        running(settings(), held.opener) as server,
        Client(server.address) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.search, random_queries[0])
        assert held.index.entered.wait(30)
        with pytest.raises(ServiceError) as error:
            client.search(random_queries[1], timeout=0.2)
        assert error.value.code == "DEADLINE_EXCEEDED"
        ended = [
            server.metrics.requests.labels("Search", code)
            for code in ("CANCELLED", "DEADLINE_EXCEEDED")
        ]
        assert until(
            lambda: sum(counter._value.get() for counter in ended) == 1
        )  # the server knows it too
        held.index.release.set()
        assert first.result().hits
        assert client.search(random_queries[2]).hits
    assert held.index.searched == [1, 1]


def test_a_search_that_expires_between_blocks_is_counted_as_such(
    vector_index, settings, random_queries, monkeypatch
):
    """By a clock of its own: the deadline passes while the first of three shards is scored."""
    now, scored, score = [0.0], [], cpu.score_blocks

    def score_blocks(*arguments):
        score(*arguments)
        scored.append(arguments)
        now[0] = 61.0

    with (
        running(settings(vector_index, scoring__threads=1)) as server,
        Client(server.address) as client,
    ):
        client.info()
        monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: now[0]))
        monkeypatch.setattr(cpu, "score_blocks", score_blocks)
        with pytest.raises(ServiceError) as error:
            client.search(random_queries[0], timeout=60)
        monkeypatch.undo()
        assert error.value.code == "DEADLINE_EXCEEDED"
        assert len(scored) == 1
        counter = server.metrics.requests.labels("Search", "DEADLINE_EXCEEDED")
        assert until(lambda: counter._value.get() == 1)


async def test_what_the_caller_gave_up_is_not_scored(held, settings, random_queries):
    server = Server(settings(), held.opener)
    await server.start()
    await server.load()

    def cancelled():
        return [
            server.metrics.requests.labels(method, "CANCELLED")._value.get()
            for method in ("Search", "SearchStream")
        ]

    async with AsyncClient(server.address) as client:
        first = asyncio.create_task(client.search(random_queries[0]))
        await asyncio.to_thread(held.index.entered.wait, 30)
        tasks = [
            asyncio.create_task(client.search(random_queries[1])),
            asyncio.create_task(anext(client.search_many(random_queries[2:5]))),
        ]
        while server.metrics.queue_depth._value.get() < 4:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        while cancelled() != [1, 1]:
            await asyncio.sleep(0)
        held.index.release.set()
        assert (await first).hits
        assert (await client.search(random_queries[5])).hits
    await server.drain()
    await server.stop()
    assert held.index.searched == [1, 1]


def test_the_servers_own_limit_holds_without_a_deadline(held, settings, random_queries):
    with (
        running(settings(limits__timeout_seconds=0.2), held.opener) as server,
        Client(server.address, timeout=None) as client,
    ):
        with pytest.raises(ServiceError, match=r"exceeded after 0\.\d+ s") as error:
            client.search(random_queries[0])
        assert error.value.code == "DEADLINE_EXCEEDED"
        held.index.release.set()


def test_one_verification_at_a_time(vector_index, settings, random_queries):
    from csplade.index import Index

    entered, release = threading.Event(), threading.Event()

    class SlowOracle(Index):
        @property
        def snapshot(self):
            return self

        def oracle(self, queries, k, mask=None):
            entered.set()
            assert release.wait(30)
            return super().oracle(queries, k, mask)

    with (
        running(settings(), lambda _: Collection(SlowOracle.open(vector_index))) as server,
        Client(server.address) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.verify, random_queries[0])
        assert entered.wait(30)
        with pytest.raises(ServiceError, match="at most 1 is allowed") as error:
            client.verify(random_queries[1])
        assert error.value.code == "RESOURCE_EXHAUSTED"
        assert client.search(random_queries[1]).hits
        release.set()
        assert first.result()
        assert client.verify(random_queries[1])


async def test_not_ready_before_everything_is_loaded(vector_index, settings):
    loading = threading.Event()

    def opener(chosen):
        assert loading.wait(30)
        return Collection.open(vector_index)

    server = Server(settings(), opener)
    await server.start()
    load = asyncio.create_task(server.load())
    async with (
        grpc.aio.insecure_channel(server.address) as channel,
        AsyncClient(server.address) as client,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=RETRIEVAL))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (
            await health.Check(health_pb2.HealthCheckRequest())
        ).status == health_pb2.HealthCheckResponse.SERVING
        for call in (client.search({1: 1.0}), client.info()):
            with pytest.raises(ServiceError, match="loading") as error:
                await call
            assert error.value.code == "UNAVAILABLE"
        loading.set()
        await load
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert (await client.search({1: 1.0})).matched > 0
        watch.cancel()
    await server.drain()
    await server.stop()


async def test_draining_finishes_what_is_in_flight_and_refuses_the_rest(
    held, settings, random_queries
):
    server = Server(settings(server__lame_duck_seconds=0), held.opener)
    await server.start()
    await server.load()
    async with (
        grpc.aio.insecure_channel(server.address) as channel,
        AsyncClient(server.address) as client,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=RETRIEVAL)
        )
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stream = rpc.RetrievalServiceStub(channel).SearchStream()
        await stream.write(stream_request(random_queries[1]))
        await asyncio.to_thread(held.index.entered.wait, 30)
        in_flight = asyncio.create_task(client.search(random_queries[0]))
        while not server.metrics.queue_depth._value.get():
            await asyncio.sleep(0)
        drain = asyncio.create_task(server.drain())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(ServiceError, match="shutting down") as error:
            await client.search(random_queries[2])
        assert error.value.code == "UNAVAILABLE"
        held.index.release.set()
        assert (await in_flight).hits
        assert (await stream.read()).response.hits
        with pytest.raises(grpc.aio.AioRpcError, match="what was read is answered"):
            await stream.read()
        watch.cancel()
    await drain
    await server.stop()


async def test_draining_does_not_wait_for_ever(held, settings, random_queries):
    server = Server(settings(server__drain_seconds=0.1, server__lame_duck_seconds=0), held.opener)
    await server.start()
    await server.load()
    async with AsyncClient(server.address) as client:
        stuck = asyncio.create_task(client.search(random_queries[0]))
        await asyncio.to_thread(held.index.entered.wait, 30)
        await server.drain()
        stop = asyncio.create_task(server.stop())
        with pytest.raises(ServiceError) as error:
            await stuck
        assert error.value.code in ("UNAVAILABLE", "CANCELLED")
        held.index.release.set()
        await stop


@pytest.fixture
def log_lines():
    """The log as the server writes it: parsed JSON lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.getLogger("csplade")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)


def test_a_failure_of_its_own_is_internal_and_told_only_in_the_log(held, settings, log_lines):
    held.index.failure = RuntimeError("a secret of the inside")
    held.index.release.set()
    with running(settings(), held.opener) as server, Client(server.address) as client:
        with pytest.raises(ServiceError) as error:
            client.search({1: 1.0})
        held.index.failure = None
        assert client.search({1: 1.0}).hits
    assert error.value.code == "INTERNAL"
    assert "secret" not in str(error.value)
    assert "Traceback" not in str(error.value)
    assert error.value.request_id in error.value.details
    (line,) = [line for line in log_lines() if "exception" in line]
    assert line["request_id"] == error.value.request_id
    assert "a secret of the inside" in line["exception"]


def test_a_storage_that_fails_names_its_files_only_in_the_log(held, settings, log_lines):
    held.index.release.set()
    with running(settings(), held.opener) as server, Client(server.address) as client:
        held.index.failure = StorageError("/a/secret/place: no space left to write")
        with pytest.raises(ServiceError, match="storage: the index cannot be read") as error:
            client.search({1: 1.0})
        held.index.failure = None
    assert error.value.code == "UNAVAILABLE"
    assert "secret" not in str(error.value)
    (line,) = [line for line in log_lines() if "exception" in line]
    assert line["request_id"] == error.value.request_id
    assert "/a/secret/place" in line["exception"]


@pytest.mark.parametrize("asked", [False, True])
def test_texts_are_logged_only_when_asked(text_index, encoder, settings, log_lines, asked):
    from csplade.index import Index

    def opener(_):
        return Collection(Index.open(text_index, threads=1), encoder)

    with (
        running(settings(logging__query_text=asked), opener) as server,
        Client(server.address) as client,
    ):
        client.search("sunlight at sea")
        client.encode(["sunlight at sea"])
        client.verify("sunlight at sea")
        list(client.search_many(["sunlight at sea"]))
    lines = log_lines()
    requests = [line for line in lines if line["message"] == "request"]
    assert [line["method"] for line in requests] == ["Search", "Encode", "Verify", "SearchStream"]
    assert all(
        line["code"] == "OK" and line["seconds"] > 0 and line["request_id"] for line in requests
    )
    with_text = [line for line in lines if "sunlight" in json.dumps(line)]
    assert len(with_text) == (4 if asked else 0)
    assert {line["request_id"] for line in with_text} == (
        {line["request_id"] for line in requests} if asked else set()
    )


def until(condition):
    """Whether the condition comes true within ten seconds; for what gives no event."""
    event = threading.Event()
    return any(condition() or event.wait(0.002) for _ in range(5000))


def stream_request(query):
    vector = pb.SparseVector(indices=list(query), values=list(query.values()))
    return pb.SearchStreamRequest(request=pb.SearchRequest(query=pb.Query(vector=vector)))


def stream_of(server, query):
    with grpc.insecure_channel(server.address) as channel:
        return list(rpc.RetrievalServiceStub(channel).SearchStream(iter([stream_request(query)])))
