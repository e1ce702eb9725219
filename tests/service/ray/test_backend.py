"""The Ray backend over real replicas in this process; the test plays Ray's part."""

import asyncio
import dataclasses
import pickle
from contextlib import asynccontextmanager

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from ray.exceptions import ActorUnavailableError
from ray.serve.exceptions import BackPressureError

from csplade.core.errors import (
    DeadlineError,
    IncompatibleError,
    OverloadedError,
    UnavailableError,
)
from csplade.core.vectors import SparseBatch
from csplade.engine.backend import Query
from csplade.engine.collection import Collection
from csplade.engine.deadline import Deadline
from csplade.index import Index
from csplade.service.ray.backend import RayBackend
from csplade.service.ray.deployment import DeploymentClient
from csplade.service.ray.fanout import DETAILED_HITS, HEAVY_POSTINGS
from csplade.service.ray.messages import Call, MovedError, ShardQuery
from csplade.service.ray.replicas import EncoderReplica, ShardReplica
from csplade.service.telemetry.metrics import Metrics


class Handle:
    """A deployment handle whose replica lives here; messages are pickled, as Ray does."""

    def __init__(self, replica) -> None:
        self.replica = replica
        self.calls: list[str] = []
        self.failures: list[Exception] = []  # raised by the next calls
        self.cancelled = 0
        self.hold: asyncio.Event | None = None

    def options(self, **_):
        return self

    def __getattr__(self, method):
        return _Method(self, method)


class _Method:
    def __init__(self, handle, name) -> None:
        self._handle, self._name = handle, name

    def remote(self, *arguments):
        return _Response(self._handle, self._name, pickle.dumps(arguments))


class _Response:
    def __init__(self, handle, name, arguments) -> None:
        self._handle, self._name, self._arguments = handle, name, arguments

    def __await__(self):
        return self._run().__await__()

    async def _run(self):
        handle = self._handle
        handle.calls.append(self._name)
        if handle.failures:
            raise handle.failures.pop(0)
        if handle.hold is not None:
            await handle.hold.wait()
        result = await getattr(handle.replica, self._name)(*pickle.loads(self._arguments))
        return pickle.loads(pickle.dumps(result))

    def cancel(self):
        self._handle.cancelled += 1


def lost():
    return ActorUnavailableError("gone", b"0" * 16)


@pytest.fixture
async def shards(vector_index, settings):
    """Handles of the three shards of the vector index."""
    async with opened(settings(vector_index, scoring__threads=1)) as handles:
        yield handles


@asynccontextmanager
async def opened(chosen):
    handles = [Handle(ShardReplica(chosen, number)) for number in range(3)]
    for handle in handles:
        await handle.replica.reconfigure({"version": "1"})
    yield handles
    for handle in handles:
        handle.replica._versions.newest.close()


@pytest.fixture
async def backend_of(shards):
    """Makes a backend with some settings."""

    async def make(settings, metrics=None):
        deployments = [DeploymentClient(f"shard {i}", handle) for i, handle in enumerate(shards)]
        backend = RayBackend(settings, metrics or Metrics(), None, deployments)
        await backend.refresh()
        assert backend.ready
        for handle in shards:
            handle.calls = []
        return backend

    return make


@pytest.fixture
async def backend(backend_of, vector_index, settings):
    return await backend_of(settings(vector_index))


def soon():
    return Deadline.after(10)


def query(weights, k=20, **more):
    terms = np.array(sorted(weights), np.int32)
    values = np.array([weights[term] for term in terms.tolist()], np.float32)
    return Query(vector=(terms, values), k=k, **more)


async def test_all_shards_together_answer_as_one_process(backend, vector_index, random_queries):
    with Index.open(vector_index, threads=1) as index:
        engine = Collection(index)
        for weights in random_queries:
            (alone,) = engine.search(
                SparseBatch.from_rows([(list(weights), list(weights.values()))]), 40, explain=True
            )
            answer = await backend.search(
                query(weights, 40, explain=True, with_document=True), soon()
            )
            assert answer.hits == alone.hits
            assert (answer.matched, answer.postings) == (alone.matched, alone.postings)
            assert (answer.query_terms, answer.cut) == (alone.query_terms, alone.cut)
            assert answer.missing_shards == ()


async def test_a_batch_shares_messages_and_fails_query_by_query(backend, shards, random_queries):
    queries = [query(weights) for weights in random_queries[:6]]
    single = [await backend.search(one, soon()) for one in queries]
    for handle in shards:
        handle.calls = []
    *batch, failed = await backend.search_batch([*queries, Query(text="a text")], soon())
    assert [one.hits for one in batch] == [one.hits for one in single]
    assert isinstance(failed, IncompatibleError)
    assert all(0 < len(handle.calls) < len(queries) for handle in shards)


async def test_a_batch_that_does_not_fit_is_not_enqueued(
    backend_of, vector_index, settings, shards
):
    small = settings(
        vector_index, batching__queue=4, limits__batch_searches=4, limits__encode_texts=4
    )
    backend, one = await backend_of(small), query({1: 1.0})
    with pytest.raises(OverloadedError, match="0 queued and 5 more exceed 4"):
        await backend.search_batch([one] * 5, soon())
    assert not any(handle.calls for handle in shards)
    assert len(await backend.search_batch([one] * 4, soon())) == 4


async def test_parts_rank_by_the_idf_of_the_whole(
    idf_index, vector_index, settings, random_queries
):
    chosen = settings(idf_index, scoring__threads=1)
    async with opened(chosen) as handles:
        deployments = [DeploymentClient(f"shard {i}", handle) for i, handle in enumerate(handles)]
        backend = RayBackend(chosen, Metrics(), None, deployments)
        await backend.refresh()
        plain = Index.open(vector_index, threads=1)
        with Index.open(idf_index, threads=1) as index, plain:
            for weights in random_queries[:10]:
                vector = SparseBatch.from_rows([(list(weights), list(weights.values()))])
                (alone,) = Collection(index).search(vector, 40, explain=True)
                answer = await backend.search(query(weights, 40, explain=True), soon())
                assert [one.contributions for one in answer.hits] == [
                    one.contributions for one in alone.hits
                ]
                (unmodified,) = Collection(plain).search(vector, 40)
                assert [hit.integer_score for hit in unmodified.hits] != [
                    hit.integer_score for hit in answer.hits
                ]


async def test_documents_of_few_hits_come_with_the_ranking_those_of_many_after_it(
    backend, shards, vector_index, random_queries
):
    with Index.open(vector_index, threads=1) as index:
        engine = Collection(index)
        weights = random_queries[0]
        for k, calls in (
            (DETAILED_HITS // 3, ["search"]),
            (DETAILED_HITS // 3 + 1, ["search", "details"]),
        ):
            (alone,) = engine.search(
                SparseBatch.from_rows([(list(weights), list(weights.values()))]), k, explain=True
            )
            for handle in shards:
                handle.calls = []
            answer = await backend.search(
                query(weights, k, explain=True, with_document=True), soon()
            )
            assert answer.hits == alone.hits
            assert {hit.shard for hit in answer.hits} == {0, 1, 2}
            assert all(handle.calls == calls for handle in shards)


async def test_a_search_is_done_once_more_when_a_replica_dies(backend, shards, random_queries):
    right = await backend.search(query(random_queries[0]), soon())
    shards[1].failures, shards[1].calls = [lost()], []
    answer = await backend.search(query(random_queries[0]), soon())
    assert answer.hits == right.hits
    assert shards[1].calls == ["search", "search"]


async def test_a_shard_that_is_gone_is_unavailable_or_missing(backend, shards, random_queries):
    whole = await backend.search(query(random_queries[0], 300), soon())
    shards[1].failures = [lost(), lost()]
    with pytest.raises(UnavailableError, match="shard 1: no replica answers"):
        await backend.search(query(random_queries[0]), soon())
    shards[1].failures, shards[1].calls = [lost(), lost()], []
    part = await backend.search(query(random_queries[0], 300, allow_partial=True), soon())
    assert part.hits == tuple(hit for hit in whole.hits if hit.shard != 1)
    assert part.matched == len(part.hits) < whole.matched
    assert part.missing_shards == (1,)
    assert shards[1].calls == ["search", "search"]
    for handle in shards:
        handle.failures = [lost(), lost()]
    with pytest.raises(UnavailableError, match="shards: none answers"):
        await backend.search(query(random_queries[0], allow_partial=True), soon())


async def test_what_fails_inside_a_replica_may_be_missing_too(backend, shards, random_queries):
    newest = shards[2].replica._versions.newest

    def broken(queries, k, mask=None, **options):
        raise RuntimeError("a secret of the inside")

    newest.collection.index.snapshot.search = broken
    part = await backend.search(query(random_queries[0], allow_partial=True), soon())
    assert part.missing_shards == (2,)
    with pytest.raises(Exception, match="RuntimeError in a replica") as error:
        await backend.search(query(random_queries[0]), soon())
    assert "secret" not in str(error.value)


async def test_the_deadline_goes_with_every_call(backend, shards, random_queries):
    shards[0].hold = asyncio.Event()
    with pytest.raises(DeadlineError, match=r"no answer within 0\.\d+ s"):
        await backend.search(query(random_queries[0]), Deadline.after(0.1))
    while not shards[0].cancelled:
        await asyncio.sleep(0)
    terms, weights = query({1: 1.0}).vector
    (error,) = await shards[1].replica.search([(Call("1", "", 0.0), ShardQuery(terms, weights, 5))])
    assert isinstance(error, DeadlineError)


async def test_a_request_that_is_given_up_is_given_up_everywhere(backend, shards, random_queries):
    for handle in shards:
        handle.hold = asyncio.Event()
    task = asyncio.create_task(backend.search(query(random_queries[0]), soon()))
    while not all(handle.calls for handle in shards):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while not all(handle.cancelled for handle in shards):
        await asyncio.sleep(0)
    assert [handle.cancelled for handle in shards] == [1, 1, 1]


async def test_what_would_find_a_queue_full_is_refused_before_anything_is_asked(
    backend_of, shards, vector_index, settings, random_queries
):
    metrics = Metrics()
    chosen = settings(
        vector_index,
        batching__queue=2,
        limits__encode_texts=1,
        limits__batch_searches=1,
        limits__stream_in_flight=1,
    )
    backend = await backend_of(chosen, metrics)
    for handle in shards:
        handle.hold, handle.calls = asyncio.Event(), []

    def depth():
        return metrics.registry.get_sample_value("csplade_queue_depth")

    inside = []
    for weights in random_queries[:3]:
        inside.append(asyncio.create_task(backend.search(query(weights), soon())))
        await asyncio.sleep(0)
        while not all(handle.calls for handle in shards):
            await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match=r"batching\.queue: 2 queued and 1 more exceed 2"):
        await backend.search(query(random_queries[3]), soon())
    assert depth() == 2
    assert [handle.calls for handle in shards] == [["search"]] * 3
    for handle in shards:
        handle.hold.set()
    first, *waited = await asyncio.gather(*inside)
    assert all(answer.timings["queue"] > first.timings["queue"] for answer in waited)
    assert depth() == 0
    await backend.search(query(random_queries[3]), soon())


async def test_light_searches_share_a_message_and_heavy_ones_go_apart(
    backend, shards, random_queries
):
    async def three():
        for handle in shards:
            handle.hold, handle.calls = asyncio.Event(), []
        tasks = [
            asyncio.create_task(backend.search(query(weights), soon()))
            for weights in random_queries[:3]
        ]
        for _ in range(20):
            await asyncio.sleep(0)
        sent = [len(handle.calls) for handle in shards]
        for handle in shards:
            handle.hold.set()
        return sent, [answer.hits for answer in await asyncio.gather(*tasks)]

    sent, light = await three()
    assert sent == [1, 1, 1]
    index = shards[1].replica._versions.newest.collection.index
    search = index.snapshot.search

    def heavy(queries, k, mask=None, **options):
        result = search(queries, k, mask, **options)
        return dataclasses.replace(result, postings=np.full_like(result.postings, HEAVY_POSTINGS))

    index.snapshot.search = heavy
    assert (await three())[1] == light
    sent, hits = await three()
    assert sent == [1, 3, 1]
    assert hits == light


async def test_errors_keep_their_kind(backend, shards, random_queries):
    shards[0].failures = [BackPressureError(num_queued_requests=1, max_queued_requests=1)]
    with pytest.raises(OverloadedError, match="shard 0"):
        await backend.search(query(random_queries[0]), soon())
    for error in (
        OverloadedError("full", 1.5),
        MovedError("gone", ("2", "1")),
        IncompatibleError("no"),
    ):
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


async def test_a_silent_deployment_is_refused_at_once_until_it_speaks(
    backend, shards, random_queries
):
    deployment = backend._shards[0]
    shards[0].failures = [lost(), lost()]
    assert await deployment.probe() == () == await deployment.probe()
    assert not deployment.up
    shards[0].calls = []
    with pytest.raises(UnavailableError, match="shard 0: no replica answers"):
        await backend.search(query(random_queries[0]), soon())
    assert shards[0].calls == []
    assert await deployment.probe() == ("1",)
    assert (await backend.search(query(random_queries[0]), soon())).hits


async def test_texts_are_encoded_by_the_encoders_replica(text_index, encoder, settings):
    chosen = settings(text_index, model__threads=1, model__device="cpu")
    replica = EncoderReplica(chosen)
    await replica.reconfigure({})
    info = await replica.info(Call("1", "", 10.0))
    assert info.encoder.fingerprint == encoder.fingerprint
    assert info.encoder.tokens == [encoder.token(term) for term in range(encoder.vocabulary_size)]
    ((encoding,),) = await replica.encode([(Call("1", "", 10.0), ["birds at sea"], "query", False)])
    terms, weights = encoder.encode_query(["birds at sea"]).row(0)
    np.testing.assert_array_equal(encoding.terms, terms)
    np.testing.assert_array_equal(encoding.weights, weights)
    replica._versions.newest.close()
