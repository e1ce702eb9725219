"""The fan-out over real replicas in this process: Ray's part, calling them, is played by the test."""

import asyncio
import dataclasses
import pickle
import threading

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from ray.exceptions import ActorUnavailableError
from ray.serve.exceptions import BackPressureError

from csplade.core.errors import DeadlineError, IncompatibleError, OverloadedError, UnavailableError
from csplade.core.vectors import SparseBatch
from csplade.engine.collection import Collection
from csplade.engine.local import Work
from csplade.index import Index
from csplade.service.ray.backend import HEAVY, TOGETHER, Catalog, Fanout, Peer
from csplade.service.ray.replicas import (
    Call,
    EncoderReplica,
    MovedError,
    Refusal,
    ShardReplica,
    Target,
    Versions,
)
from csplade.service.telemetry.metrics import Metrics


class Handle:
    """A deployment handle whose replica lives here; everything is pickled on its way, as Ray does."""

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
    chosen = settings(vector_index, scoring__threads=1)
    handles = [Handle(ShardReplica(chosen, number)) for number in range(3)]
    for handle in handles:
        await handle.replica.reconfigure({"version": "1"})
    yield handles
    for handle in handles:
        handle.replica._versions.newest.close()


@pytest.fixture
async def fanout_of(shards):
    """Makes a fan-out with some settings."""

    async def make(settings, metrics=None):
        facts = [await handle.replica.facts(Call("1", "", None)) for handle in shards]
        peers = [Peer(f"shard {number}", handle) for number, handle in enumerate(shards)]
        return Fanout("1", Catalog(facts, None), None, peers, settings, metrics or Metrics())

    return make


@pytest.fixture
async def fanout(fanout_of, vector_index, settings):
    return await fanout_of(settings(vector_index))


def work(query, k=20, **more):
    terms = np.array(sorted(query), np.int32)
    return Work(
        vector=(terms, np.array([query[term] for term in terms.tolist()], np.float32)), k=k, **more
    )


def same(answer):
    return answer


async def test_all_shards_together_answer_as_one_process(fanout, vector_index, random_queries):
    with Index.open(vector_index, threads=1) as index:
        engine = Collection(index)
        for query in random_queries:
            (alone,) = engine.search(
                SparseBatch.from_rows([(list(query), list(query.values()))]), 40, explain=True
            )
            answer = await fanout.search(
                work(query, 40, explain=True, fetch=True), remaining=10, then=same
            )
            assert answer.hits == alone.hits
            assert (answer.matched, answer.postings) == (alone.matched, alone.postings)
            assert (answer.query_terms, answer.clipped) == (alone.query_terms, alone.clipped)
            assert answer.missing_shards == ()


async def test_documents_of_few_hits_come_with_the_ranking_those_of_many_after_it(
    fanout, shards, vector_index, random_queries
):
    with Index.open(vector_index, threads=1) as index:
        engine = Collection(index)
        query = random_queries[0]
        for k, calls in ((TOGETHER // 3, ["search"]), (TOGETHER // 3 + 1, ["search", "details"])):
            (alone,) = engine.search(
                SparseBatch.from_rows([(list(query), list(query.values()))]), k, explain=True
            )
            for handle in shards:
                handle.calls = []
            answer = await fanout.search(
                work(query, k, explain=True, fetch=True), remaining=10, then=same
            )
            assert answer.hits == alone.hits
            assert {hit.shard for hit in answer.hits} == {0, 1, 2}
            assert all(handle.calls == calls for handle in shards)


async def test_a_search_is_done_once_more_when_a_replica_dies(fanout, shards, random_queries):
    right = await fanout.search(work(random_queries[0]), remaining=10, then=same)
    shards[1].failures, shards[1].calls = [lost()], []
    answer = await fanout.search(work(random_queries[0]), remaining=10, then=same)
    assert answer.hits == right.hits
    assert shards[1].calls == ["search", "search"]


async def test_a_shard_that_is_gone_is_unavailable_or_missing(fanout, shards, random_queries):
    whole = await fanout.search(work(random_queries[0], 300), remaining=10, then=same)
    shards[1].failures = [lost(), lost()]
    with pytest.raises(UnavailableError, match="shard 1 does not answer"):
        await fanout.search(work(random_queries[0]), remaining=10, then=same)
    shards[1].failures, shards[1].calls = [lost(), lost()], []
    part = await fanout.search(
        work(random_queries[0], 300, allow_partial=True), remaining=10, then=same
    )
    assert part.hits == [hit for hit in whole.hits if hit.shard != 1]
    assert part.matched == len(part.hits) < whole.matched
    assert part.missing_shards == (1,)
    assert shards[1].calls == ["search", "search"]
    for handle in shards:
        handle.failures = [lost(), lost()]
    with pytest.raises(UnavailableError, match="no shard answers"):
        await fanout.search(work(random_queries[0], allow_partial=True), remaining=10, then=same)


async def test_what_fails_inside_a_replica_may_be_missing_too(fanout, shards, random_queries):
    pipeline = shards[2].replica._versions.newest

    def broken(queries, k):
        raise RuntimeError("a secret of the inside")

    pipeline.engine.index.search = broken
    part = await fanout.search(work(random_queries[0], allow_partial=True), remaining=10, then=same)
    assert part.missing_shards == (2,)
    with pytest.raises(Exception, match="RuntimeError in a replica") as error:
        await fanout.search(work(random_queries[0]), remaining=10, then=same)
    assert "secret" not in str(error.value)


async def test_the_deadline_goes_with_every_call(fanout, shards, random_queries):
    shards[0].hold = asyncio.Event()
    with pytest.raises(DeadlineError, match=r"not answered within 0\.100 s"):
        await fanout.search(work(random_queries[0]), remaining=0.1, then=same)
    while not shards[0].cancelled:
        await asyncio.sleep(0)
    terms, weights = (part.tobytes() for part in work({1: 1.0}).vector)
    (refusal,) = await shards[1].replica.search(
        [(Call("1", "", 0.0), terms, weights, 5, False, False)]
    )
    assert isinstance(refusal.error(), DeadlineError)


async def test_a_request_that_is_given_up_is_given_up_everywhere(fanout, shards, random_queries):
    for handle in shards:
        handle.hold = asyncio.Event()
    task = asyncio.create_task(fanout.search(work(random_queries[0]), remaining=None, then=same))
    while not all(handle.calls for handle in shards):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while not all(handle.cancelled for handle in shards):
        await asyncio.sleep(0)
    assert [handle.cancelled for handle in shards] == [1, 1, 1]


async def test_what_would_find_a_queue_full_is_refused_before_anything_is_asked(
    fanout_of, shards, vector_index, settings, random_queries
):
    metrics = Metrics()
    chosen = settings(
        vector_index, batching__queue=2, limits__encode_texts=1, limits__stream_in_flight=1
    )
    fanout = await fanout_of(chosen, metrics)
    for handle in shards:
        handle.hold, handle.calls = asyncio.Event(), []

    def depth():
        return metrics.registry.get_sample_value("csplade_queue_depth")

    inside = []
    for query in random_queries[:3]:
        inside.append(asyncio.create_task(fanout.search(work(query), remaining=10, then=same)))
        await asyncio.sleep(0)
        while not all(handle.calls for handle in shards):
            await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match=r"2 wait, 1 more exceed batching\.queue 2"):
        await fanout.search(work(random_queries[3]), remaining=10, then=same)
    assert depth() == 2
    assert [handle.calls for handle in shards] == [["search"]] * 3
    for handle in shards:
        handle.hold.set()
    first, *waited = await asyncio.gather(*inside)
    assert all(answer.timings["queue"] > first.timings["queue"] for answer in waited)
    assert depth() == 0
    await fanout.search(work(random_queries[3]), remaining=10, then=same)


async def test_light_searches_share_a_message_and_heavy_ones_go_apart(
    fanout, shards, random_queries
):
    async def three():
        for handle in shards:
            handle.hold, handle.calls = asyncio.Event(), []
        tasks = [
            asyncio.create_task(fanout.search(work(query), remaining=10, then=same))
            for query in random_queries[:3]
        ]
        for _ in range(20):
            await asyncio.sleep(0)
        sent = [len(handle.calls) for handle in shards]
        for handle in shards:
            handle.hold.set()
        return sent, [answer.hits for answer in await asyncio.gather(*tasks)]

    sent, light = await three()
    assert sent == [1, 1, 1]
    index = shards[1].replica._versions.newest.engine.index
    search = index.search

    def heavy(queries, k):
        result = search(queries, k)
        return dataclasses.replace(result, postings=np.full_like(result.postings, HEAVY))

    index.search = heavy
    assert (await three())[1] == light
    sent, hits = await three()
    assert sent == [1, 3, 1]
    assert hits == light


async def test_refusals_keep_their_kind(fanout, shards, random_queries):
    shards[0].failures = [BackPressureError(num_queued_requests=1, max_queued_requests=1)]
    with pytest.raises(OverloadedError, match="shard 0"):
        await fanout.search(work(random_queries[0]), remaining=10, then=same)
    for error in (
        OverloadedError("full", 1.5),
        MovedError("gone", ("2", "1")),
        IncompatibleError("no"),
    ):
        back = pickle.loads(pickle.dumps(Refusal.of(error))).error()
        assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


async def test_a_silent_deployment_is_refused_at_once_until_it_speaks(
    fanout, shards, random_queries
):
    (peer,) = [peer for peer in fanout._shards if peer.name == "shard 0"]
    shards[0].failures = [lost(), lost()]
    assert await peer.look() == () == await peer.look()
    assert not peer.up
    shards[0].calls = []
    with pytest.raises(UnavailableError, match="shard 0 does not answer"):
        await fanout.search(work(random_queries[0]), remaining=10, then=same)
    assert shards[0].calls == []
    assert await peer.look() == ("1",)
    assert (await fanout.search(work(random_queries[0]), remaining=10, then=same)).hits


async def test_texts_are_encoded_by_the_encoders_replica(text_index, encoder, settings):
    chosen = settings(text_index, model__threads=1, model__device="cpu")
    replica = EncoderReplica(chosen)
    await replica.reconfigure({})
    facts = await replica.facts(Call("1", "", None))
    assert (facts.fingerprint, facts.vocabulary_size) == (
        encoder.fingerprint,
        encoder.vocabulary_size,
    )
    assert facts.tokens == [encoder.token(term) for term in range(encoder.vocabulary_size)]
    ((coded,),) = await replica.encode([(Call("1", "", 10.0), ["birds at sea"], "query")])
    terms, weights = encoder.encode_query(["birds at sea"]).row(0)
    assert coded.terms == terms.tobytes()
    np.testing.assert_array_equal(np.frombuffer(coded.weights, np.float32), weights)
    replica._versions.newest.close()


class Thing:
    """Stands for a pipeline."""

    def __init__(self, name):
        self.name, self.closed = name, threading.Event()
        self.engine = self

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

    versions = Versions(load, retire_after=0.2)
    await versions.update(Target(version="1"))
    await versions.update(Target(version="2"))
    assert versions.names == ("1",)  # not yet loaded, and nobody waited for it
    with pytest.raises(MovedError) as error:
        versions.pipeline("2")
    assert error.value.versions == ("1",)
    loading.set()
    while versions.names != ("2", "1"):
        await asyncio.sleep(0.01)
    assert versions.pipeline("1") is things["1"]
    assert versions.newest is versions.pipeline("2") is things["2"]
    while versions.names != ("2",):
        await asyncio.sleep(0.01)
    assert await asyncio.to_thread(things["1"].closed.wait, 5)
    assert not things["2"].closed.is_set()
    await versions.update(Target(version="bad"))
    await versions._following
    assert versions.names == ("2",)  # what cannot be loaded changes nothing
