"""Messages from strangers, to every rpc: answered, or rejected in one line that names the field.

``--hypothesis-profile=long`` tries more of them, see ``conftest.py``.
"""

from __future__ import annotations

import importlib
import pkgutil

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from csplade import v1
from csplade.service.admission import MAX_COMPLAINT
from csplade.service.grpc.server import running
from csplade.v1 import retrieval_pb2 as pb

from .mutations import fuzzed, message_bytes

pytestmark = pytest.mark.attack

METHODS = [
    method
    for name in pkgutil.iter_modules(v1.__path__)
    if name.name.endswith("_pb2")
    for service in importlib.import_module(
        f"{v1.__name__}.{name.name}"
    ).DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
ALLOWED = {"OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND", "ABORTED"}
SECONDS = 60.0  # of a call; nobody waits that long


@pytest.fixture(scope="module")
def channel(text_index_of, tiny_model, settings):
    """A server of texts and vectors with an index of its own, since rpcs may write."""
    chosen = settings(text_index_of(), model__path=str(tiny_model), logging__requests=False)
    with running(chosen) as server, grpc.insecure_channel(server.address) as channel:
        yield channel
        info = channel.unary_unary("/csplade.v1.RetrievalService/Info")(b"", timeout=SECONDS)
        assert pb.InfoResponse.FromString(info).index.documents


def call_of(channel: grpc.Channel, method: MethodDescriptor):
    """The call of an rpc that takes and gives bytes."""
    sides = (
        "stream" if one else "unary" for one in (method.client_streaming, method.server_streaming)
    )
    make = getattr(channel, "_".join(sides))
    return make(f"/{method.containing_service.full_name}/{method.name}")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name.split(".", 2)[2])
def test_whatever_comes_is_answered_or_rejected(channel, method, caplog):
    call, answer = call_of(channel, method), GetMessageClass(method.output_type)
    bodies = message_bytes(method.input_type)

    @fuzzed
    @given(st.lists(bodies, max_size=3) if method.client_streaming else bodies)
    def check(sent):
        code, told, trailing = outcome(call, answer, method, sent)
        assert code in ALLOWED, told
        assert "\n" not in told
        assert len(told) <= MAX_COMPLAINT
        assert trailing["x-request-id"]

    check()
    assert "Traceback" not in caplog.text


def outcome(call, answer, method, sent) -> tuple[str, str, dict]:
    """Send, read and parse all answers; returns code, message and trailing metadata."""
    request = iter(sent) if method.client_streaming else sent
    try:
        if method.server_streaming:
            flowing = call(request, timeout=SECONDS)
            for raw in flowing:
                check_part(answer.FromString(raw))
            return "OK", "", dict(flowing.trailing_metadata())
        raw, ended = call.with_call(request, timeout=SECONDS)
        answer.FromString(raw)
        return "OK", "", dict(ended.trailing_metadata())
    except grpc.RpcError as error:
        return error.code().name, error.details(), dict(error.trailing_metadata())


def check_part(part) -> None:
    """An answer of a stream may hold the error of its query."""
    if "error" in part.DESCRIPTOR.fields_by_name and part.HasField("error"):
        names = {code.value[0]: code.name for code in grpc.StatusCode}
        assert names[part.error.code] in ALLOWED, part.error.message
        assert len(part.error.message) <= MAX_COMPLAINT
