"""What a service refuses, over the wire: the same in one process and on Ray."""

import threading
from contextlib import suppress

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from csplade.client.client import Client
from csplade.client.connection import ServiceError
from csplade.service.names import RETRIEVAL
from csplade.v1 import retrieval_pb2 as pb
from csplade.v1 import retrieval_pb2_grpc as rpc


@pytest.fixture(scope="module")
def stub(narrow_service):
    with narrow_service.channel() as channel:
        yield rpc.RetrievalServiceStub(channel)


def vector(indices, values, **more):
    return pb.Query(vector=pb.SparseVector(indices=indices, values=values, **more))


GOOD = pb.Query(text="iron")


@pytest.mark.parametrize(
    ("query", "k", "complaint"),
    [
        (vector([1, 2], [1.0, float("nan")]), 10, r"query\.vector\.values\[1\]: nan .* finite"),
        (vector([1, 2], [float("inf"), 1.0]), 10, r"query\.vector\.values\[0\]: inf .* finite"),
        (vector([1, 2], [1.0, -0.5]), 10, r"query\.vector\.values\[1\]: -0\.5 .* > 0"),
        (vector([1, 2], [1.0]), 10, r"query\.vector\.indices: 2 terms but 1 in .*values"),
        (vector([7, 3, 7], [1.0, 1.0, 1.0]), 10, r"query\.vector\.indices\[2\]: 7 is repeated"),
        (vector(range(31), [1.0] * 31), 10, r"query\.vector\.indices: 31 terms; at most 30"),
        (vector([1], [1.0], tokens=["a"]), 10, r"query\.vector: both indices and tokens"),
        (GOOD, 0, r"k: 0 is out of range; 1 to 10000"),
        (GOOD, 10_001, r"k: 10001 is out of range; 1 to 10000"),
        (pb.Query(text=""), 10, r"query\.text: blank"),
        (pb.Query(text=" \n"), 10, r"query\.text: blank"),
        (pb.Query(text="a" * 101), 10, r"query\.text: 101 bytes; at most 100"),
        (pb.Query(text="ü" * 51), 10, r"query\.text: 102 bytes; at most 100"),
        (pb.Query(), 10, r"query: not set; a text or a vector"),
        (None, 10, r"query: not set; a text or a vector"),
    ],
)
def test_malformed_queries(stub, query, k, complaint):
    calls = [
        lambda: stub.Search(pb.SearchRequest(query=query, k=k)),
        lambda: stub.Verify(pb.VerifyRequest(query=query, k=k)),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError, match=complaint) as error:
            call()
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (pb.EncodeRequest(texts=["a"]), r"kind: 0 is unknown; TEXT_KIND_QUERY"),
        (pb.EncodeRequest(texts=["a"], kind=9), r"kind: 9 is unknown; TEXT_KIND_QUERY"),
        (pb.EncodeRequest(kind=1), r"texts: 0 texts; 1 to 2"),
        (pb.EncodeRequest(texts=["a"] * 3, kind=1), r"texts: 3 texts; 1 to 2"),
        (pb.EncodeRequest(texts=["a", "b" * 101], kind=2), r"texts\[1\]: 101 bytes; at most 100"),
    ],
)
def test_malformed_encodes(stub, request_, complaint):
    with pytest.raises(grpc.RpcError, match=complaint) as error:
        stub.Encode(request_)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("count", [0, 4])
def test_a_batch_of_too_few_or_too_many_queries(stub, count):
    request = pb.SearchBatchRequest(requests=[pb.SearchRequest(query=GOOD)] * count)
    with pytest.raises(grpc.RpcError, match=rf"requests: {count} requests; 1 to 3") as error:
        stub.SearchBatch(request)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_batch_whose_answer_is_too_large(stub):
    one = pb.SearchRequest(query=GOOD, k=20, with_document=True)
    assert len(stub.Search(one).hits) == 20
    with pytest.raises(grpc.RpcError, match=r"server\.send_bytes allows 2000; send fewer") as error:
        stub.SearchBatch(pb.SearchBatchRequest(requests=[one] * 3))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_bounds_of_what_is_explained_and_sent(stub):
    assert stub.Search(pb.SearchRequest(query=GOOD, k=2)).hits
    for request, complaint in [
        (
            pb.SearchRequest(query=GOOD, k=21, explain=True),
            "k: 21 is too many with explain; at most 20",
        ),
        (
            pb.SearchRequest(query=GOOD, k=20, explain=True),
            r"server\.send_bytes allows 2000; ask for a smaller k",
        ),
    ]:
        with pytest.raises(grpc.RpcError, match=complaint) as error:
            stub.Search(request)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_what_is_too_large_is_resource_exhausted(narrow_service):
    with narrow_service.client() as client:
        with pytest.raises(
            ServiceError, match=r"message larger than max \(\d+ vs\. 4000\)"
        ) as error:
            client.search("word " * 1000)
        assert error.value.code == "RESOURCE_EXHAUSTED"


def test_every_refusal_carries_the_request_id(stub):
    with pytest.raises(grpc.RpcError) as error:
        stub.Search(pb.SearchRequest(), metadata=(("x-request-id", "mine-2"),))
    assert dict(error.value.trailing_metadata())["x-request-id"] == "mine-2"


def test_a_deadline_that_cannot_be_kept(vector_service):
    with vector_service.client() as client:
        with pytest.raises(ServiceError) as error:
            client.search({1: 1.0}, timeout=1e-4)
        assert error.value.code == "DEADLINE_EXCEEDED"
        assert client.search({1: 1.0}).hits


def test_keys_are_asked_for_but_not_by_health(string_service):
    for key, code in (("wrong", "PERMISSION_DENIED"), ("", "UNAUTHENTICATED")):
        with (
            Client(
                string_service.address, key=key or None, application=string_service.application
            ) as client,
            pytest.raises(ServiceError) as error,
        ):
            client.info()
        assert error.value.code == code
    with string_service.channel() as channel:
        request = health_pb2.HealthCheckRequest(service=RETRIEVAL)
        assert health_pb2_grpc.HealthStub(channel).Check(request).status == 1


def test_health_is_watched(vector_service):
    with vector_service.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name, status in ((RETRIEVAL, 1), ("nothing", 3)):
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=name))
            assert next(watch).status == status
            watch.cancel()


@pytest.mark.parametrize("method", ["Search", "SearchBatch", "Encode", "Verify"])
def test_undecodable_bytes_are_invalid_arguments(vector_service, method):
    with vector_service.channel() as channel:
        call = channel.unary_unary(f"/{RETRIEVAL}/{method}")
        for body in (b"\x0a\x04\x0a\x02\xff\xfe", b"\x0a\xff\xff\xff\xff\x0f"):
            with pytest.raises(grpc.RpcError, match="not a valid protobuf message") as error:
                call(body, timeout=30)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert dict(error.value.trailing_metadata())["x-request-id"]


def test_a_large_header_harms_its_own_call_alone(vector_service):
    request = pb.SearchRequest(query=vector([1], [1.0]))
    answered, proceed = threading.Event(), threading.Event()

    def requests():
        yield pb.SearchStreamRequest(sequence=1, request=request)
        assert proceed.wait(60)
        yield pb.SearchStreamRequest(sequence=2, request=request)

    def read(stream, sequences):
        for one in stream:
            sequences.append(one.sequence)
            answered.set()

    with vector_service.channel() as channel:
        stub, sequences = rpc.RetrievalServiceStub(channel), []
        neighbour = threading.Thread(target=read, args=(stub.SearchStream(requests()), sequences))
        neighbour.start()
        assert answered.wait(60)
        header = (("authorization", "Bearer " + "v" * 20_000),)
        with suppress(grpc.RpcError):
            stub.Search(request, metadata=header, timeout=30)
        proceed.set()
        neighbour.join(60)
        assert sequences == [1, 2]
        assert stub.Search(request, timeout=30).hits
