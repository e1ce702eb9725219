"""Filters, paging, thresholds and vectors, over the wire: the same in one process and on Ray."""

import asyncio

import grpc
import numpy as np
import pytest
from google.protobuf.struct_pb2 import Value

from csplade.client.connection import ServiceError
from csplade.core.filters import Exists, Filter, HasId, Match, Range
from csplade.engine.collection import Collection
from csplade.index import Index
from csplade.v1 import retrieval_pb2 as pb
from csplade.v1 import retrieval_pb2_grpc as rpc

QUERY = "rivers in winter"
FILTERS = [
    {"must": [{"field": "number", "range": {"gte": 10, "lt": 30}}]},
    {"must": [{"field": "number", "match": {"any": [1, 2, "40", 47.0]}}]},
    {"should": [{"has_id": ["d3", "d4", "none"]}, {"field": "number", "range": {"gt": 44}}]},
    {"must_not": [{"nested": {"must": [{"field": "number", "exists": True}]}}]},
    {},
]


@pytest.fixture(scope="module")
def engine(text_index, encoder):
    with Index.open(text_index, threads=1) as index:
        yield Collection(index, encoder)


@pytest.mark.parametrize("plain", FILTERS)
def test_a_filter_is_answered_as_the_oracle_answers(client, engine, plain):
    filter = Filter.parse(plain)
    vectors = engine.encoder.encode_query([QUERY])
    queries = engine.quantize(vectors, engine.index.snapshot)
    truth = engine.index.oracle(queries, 48, filter)
    shards, ordinals, scores = truth.row(0)
    ids = engine.index.ids(shards, ordinals)
    for asked in (plain, filter):
        answer = client.search(QUERY, k=48, filter=asked)
        found = [(hit.id, hit.integer_score) for hit in answer]
        assert found == list(zip(ids, scores.tolist(), strict=True))
        assert answer.matched == truth.matched[0] == len(answer)
        assert client.verify(QUERY, k=48, filter=asked)


def test_pages_follow_on_each_other(client):
    filter = Filter(must=(Range("number", gte=5),))
    whole = client.search(QUERY, k=43, filter=filter)
    pages = [client.search(QUERY, k=10, offset=first, filter=filter) for first in range(0, 60, 10)]
    assert [hit for page in pages for hit in page] == list(whole)
    assert {page.matched for page in pages} == {whole.matched} == {43}
    late = client.search(QUERY, k=2, offset=7, explain=True, with_document=True)
    full = client.search(QUERY, k=9, explain=True, with_document=True)
    assert list(late) == list(full)[7:]


def test_a_threshold_ends_the_hits_and_no_count(client):
    whole = client.search(QUERY, k=48)
    border = whole.hits[20].integer_score * whole.score_scale
    expected = [hit for hit in whole if hit.integer_score * whole.score_scale >= border]
    found = client.search(QUERY, k=48, score_threshold=border)
    assert list(found) == expected
    assert 21 <= len(found) < 48
    assert found.matched == whole.matched
    assert len(client.search(QUERY, k=5, offset=19, score_threshold=border)) == len(found) - 19
    assert not client.search(QUERY, score_threshold=1e9).hits


def test_vectors_are_those_that_are_stored(client, vector_client, engine, vector_index):
    with Collection.open(vector_index) as vectors:
        for asked, collection, query in (
            (client, engine, QUERY),
            (vector_client, vectors, {1: 1.0, 7: 2.0}),
        ):
            answer = asked.search(query, k=20, with_vector=True)
            assert len(answer)
            for hit in answer:
                ((shard, ordinal),) = collection.index.find([hit.id]).values()
                terms, impacts = collection.index.vectors([shard], [ordinal]).row(0)
                weights = np.float32(impacts * collection.index.manifest.step)
                expected = dict(zip(terms.tolist(), weights.tolist(), strict=True))
                assert hit.vector == expected
                assert hit.document is None
            assert all(hit.vector is None for hit in asked.search(query))


def test_streams_and_the_asynchronous_client_take_the_same(client, service):
    options = {"filter": {"must": [{"has_id": ["d1", "d2", "d3"]}]}, "with_vector": True}
    expected = list(client.search(QUERY, **options))
    assert {hit.id for hit in expected} == {"d1", "d2", "d3"}
    assert [list(one) for one in client.search_many([QUERY] * 3, **options)] == [expected] * 3
    assert [list(one) for one in client.search_batch([QUERY] * 3, **options)] == [expected] * 3

    async def ask():
        async with service.async_client() as asynchronous:
            one = await asynchronous.search(QUERY, **options)
            many = [each async for each in asynchronous.search_many([QUERY], **options)]
            many += await asynchronous.search_batch([QUERY], **options)
            verified = await asynchronous.verify(QUERY, filter=options["filter"])
            return list(one), [list(each) for each in many], verified

    one, many, verified = asyncio.run(ask())
    assert (one, many) == (expected, [expected] * 2)
    assert verified.identical
    assert verified.matched == 3


def test_queries_of_one_batch_keep_their_own_filters(service):
    numbers = range(0, 48, 5)

    async def ask():
        async with service.async_client() as asynchronous:
            filters = [Filter(must=(Match("number", (number,)),)) for number in numbers]
            return await asyncio.gather(
                *(asynchronous.search(QUERY, k=48, filter=one) for one in [*filters, None])
            )

    *answers, whole = asyncio.run(ask())
    assert len(whole) == 48
    assert [[hit.id for hit in one] for one in answers] == [[f"d{one}"] for one in numbers]


def test_declared_fields_are_told(client, vector_client):
    assert client.info().index["fields"] == {"number": "integer"}
    assert vector_client.info().index["fields"] == {}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"filter": {"must": [{"field": "color", "exists": True}]}},
            "filter: field 'color' is not declared; declared are number; declare it with "
            "`csplade index declare DIR color:TYPE`",
        ),
        (
            {"filter": {"must": [{"field": "number", "match": {"any": ["x"]}}]}},
            "filter: field number: 'x' is not integer; allowed is a whole number",
        ),
        ({"filter": Filter(must=(Exists("number"),) * 257)}, "filter: 257 conditions are too many"),
        ({"filter": Filter(must=(HasId(("a",) * 16_385),))}, "filter: 16385 values are too many"),
        ({"offset": 9991}, "offset: 9991 and k 10 reach 10001; at most 10000"),
    ],
)
def test_what_does_not_fit_is_rejected_by_the_service(client, options, complaint):
    with pytest.raises(ServiceError, match=complaint) as error:
        client.search(QUERY, **options)
    assert error.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (
            pb.SearchRequest(filter=pb.Filter(must=[pb.Condition()])),
            r"filter.must\[0\]: has no condition; exactly one of match, range, exists",
        ),
        (
            pb.SearchRequest(
                filter=pb.Filter(must=[pb.Condition(field="number", match=pb.Match())])
            ),
            r"filter.must\[0\].match: has nothing; exactly one of any, except",
        ),
        (
            pb.SearchRequest(
                filter=pb.Filter(must=[pb.Condition(field="number", exists=True, has_id=["a"])])
            ),
            r"filter.must\[0\]: has exists, has_id; exactly one of",
        ),
        (
            pb.SearchRequest(
                filter=pb.Filter(
                    must=[
                        pb.Condition(
                            field="number", range=pb.Range(lte=Value(number_value=float("inf")))
                        )
                    ]
                )
            ),
            "filter: .*lte.*Infinity",
        ),
        (pb.SearchRequest(score_threshold=float("nan")), "score_threshold: nan is not finite"),
        (pb.SearchRequest(columns=True, with_vector=True), "columns: true is not allowed with"),
    ],
)
def test_malformed_messages(service, request_, complaint):
    request_.query.text = QUERY
    with service.channel() as channel, pytest.raises(grpc.RpcError, match=complaint) as error:
        rpc.RetrievalServiceStub(channel).Search(request_)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
