"""Bytes that are no message: INVALID_ARGUMENT with a request id and a metric, on every rpc."""

import random
import urllib.request

import grpc
import pytest

from csplade.service.grpc.server import running
from csplade.service.names import RETRIEVAL
from csplade.v1 import retrieval_pb2 as pb

METHODS = {
    "Search": pb.SearchRequest,
    "Encode": pb.EncodeRequest,
    "Verify": pb.VerifyRequest,
    "Info": pb.InfoRequest,
}


def broken(seed: int) -> bytes:
    """Bytes that protobuf cannot parse: a field of more bytes than follow, after random ones."""
    return random.Random(seed).randbytes(seed % 50) + b"\x0a\xff\xff\xff\xff\x0f"


@pytest.mark.parametrize("method", METHODS)
def test_undecodable_bytes_are_invalid_arguments(vector_index, settings, method, caplog):
    with (
        running(settings(vector_index, metrics__enabled=True)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        call = channel.unary_unary(f"/{RETRIEVAL}/{method}")
        count = 0
        for seed in range(60):
            body = broken(seed)
            try:
                METHODS[method].FromString(body)
                continue
            except Exception:
                count += 1
            with pytest.raises(grpc.RpcError, match="not a valid protobuf message") as error:
                call(body, timeout=10)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert dict(error.value.trailing_metadata())["x-request-id"]
        url = f"http://{server.metrics_address}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            text = response.read().decode()
    assert count > 20
    assert f'requests_total{{code="INVALID_ARGUMENT",method="{method}"}} {count}.0' in text
    assert "Traceback" not in caplog.text


def test_undecodable_bytes_end_a_stream_alike(vector_index, settings):
    with (
        running(settings(vector_index)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        call = channel.stream_stream(f"/{RETRIEVAL}/SearchStream")
        with pytest.raises(grpc.RpcError, match="not a valid protobuf message") as error:
            list(call(iter([broken(3)]), timeout=10))
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
