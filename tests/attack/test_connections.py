"""Connections that live long: idle streams that are pinged, and connections that are given up."""

import threading

import grpc
import pytest

from csplade.service.grpc.server import running
from csplade.v1 import retrieval_pb2 as pb
from csplade.v1 import retrieval_pb2_grpc as rpc

pytestmark = pytest.mark.attack

PINGS = [
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


def test_an_idle_stream_may_be_pinged(vector_index, settings):
    """As guides for load balancers advise; by default gRPC answers the third ping with GOAWAY."""
    vector = pb.SparseVector(indices=[1], values=[1.0])
    request = pb.SearchRequest(query=pb.Query(vector=vector))
    idle = threading.Event()

    def requests():
        yield pb.SearchStreamRequest(sequence=1, request=request)
        idle.wait(6)  # six pings
        yield pb.SearchStreamRequest(sequence=2, request=request)

    with (
        running(settings(vector_index)) as server,
        grpc.insecure_channel(server.address, PINGS) as channel,
    ):
        stream = rpc.RetrievalServiceStub(channel).SearchStream(requests())
        assert [one.sequence for one in stream] == [1, 2]
