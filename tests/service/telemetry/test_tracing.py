"""Spans, as a collector on a loopback port receives them; and that nothing is loaded where there
are none.
"""

import subprocess
import sys

import grpc
import pytest

from csplade.client.client import Client
from csplade.client.connection import ServiceError
from csplade.core.errors import InputError
from csplade.engine.collection import Collection
from csplade.index import Index
from csplade.service import settings as config
from csplade.service.grpc.server import running
from csplade.service.settings import Tracing
from csplade.v1 import retrieval_pb2 as pb
from csplade.v1 import retrieval_pb2_grpc as rpc

pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.grpc", reason="csplade[tracing] is not installed"
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from csplade.service.telemetry.tracing import Tracer, part, stages, tracer

CALLER_TRACE, CALLER_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
METHOD = "csplade.v1.RetrievalService/"
ALL_STAGES = ["queue", "tokenize", "encode", "sparsify", "score", "select", "merge", "fetch"]


@pytest.fixture
def collector(open_collector):
    """One that nobody else sends to."""
    with open_collector() as collector:
        yield collector


@pytest.fixture
def serve(text_index, encoder, settings, collector):
    """A server that sends its spans to the collector; they are all there when it has ended."""

    def serve(**values):
        traced = settings(text_index, **({"tracing__endpoint": collector.endpoint} | values))
        return running(traced, lambda _: Collection(Index.open(text_index, threads=1), encoder))

    return serve


def test_encode_verify_streams_and_refusals_have_their_spans(serve, collector):
    with serve() as server, Client(server.address) as client:
        client.encode(["rivers", "birds"])
        client.verify("rivers in winter", k=3)
        list(client.search_many(["rivers", "birds at sea"], k=2))
        with pytest.raises(ServiceError, match="INVALID_ARGUMENT"):
            client.search("rivers", k=100_000)
    (encoding,), (verifying,) = (
        collector.named(f"{METHOD}Encode"),
        collector.named(f"{METHOD}Verify"),
    )
    assert [span.name for span in collector.below(encoding)] == ALL_STAGES[:4]
    assert [span.name for span in collector.below(verifying)] == ALL_STAGES
    (stream,) = collector.named(f"{METHOD}SearchStream")
    queries = collector.below(stream)
    assert [span.name for span in queries] == ["SearchStreamQuery"] * 2
    assert all(
        [child.name for child in collector.below(query)][:7] == ALL_STAGES[:7] for query in queries
    )
    (refused,) = collector.named(f"{METHOD}Search")
    assert collector.below(refused) == []
    codes = {one.key: one.value.int_value for one in refused.attributes}
    assert codes["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert (
        refused.status.code == refused.status.STATUS_CODE_UNSET
    )  # the caller's fault, not the server's


def test_a_fault_of_the_server_marks_its_span(held, settings, collector):
    with running(settings(tracing__endpoint=collector.endpoint), held.opener) as server:
        held.index.failure = RuntimeError("broken")
        held.index.release.set()
        with Client(server.address) as client, pytest.raises(ServiceError, match="INTERNAL"):
            client.search({1: 1.0})
    (span,) = collector.named(f"{METHOD}Search")
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert "broken" not in span.status.message


def test_who_is_traced_is_for_the_caller_to_say_and_else_for_the_ratio(serve, collector):
    with serve(tracing__ratio=0.0) as server, grpc.insecure_channel(server.address) as channel:
        stub = rpc.RetrievalServiceStub(channel)
        request = pb.SearchRequest(query=pb.Query(text="rivers"), k=1)
        stub.Search(request)
        stub.Search(request, metadata=(("traceparent", f"00-{CALLER_TRACE}-{CALLER_SPAN}-00"),))
        stub.Search(request, metadata=(("traceparent", f"00-{CALLER_TRACE}-{CALLER_SPAN}-01"),))
    (span,) = collector.named(f"{METHOD}Search")
    assert span.parent_span_id.hex() == CALLER_SPAN


def test_stages_lie_end_to_end_and_those_that_did_not_happen_have_none():
    exporter = InMemorySpanExporter()
    made = Tracer(exporter, 1.0)
    with made.request("Search", {}, "id") as trace:
        stages(pb.Timings(queue=5, score=70, merge=3, total=100))
        trace.end_with("OK")
    with part("nothing is traced here") as nothing:
        stages(pb.Timings(queue=1))
    made.close()
    assert nothing is None
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert spans.keys() == {"queue", "score", "merge", f"{METHOD}Search"}
    assert spans["queue"].end_time - spans["queue"].start_time == 5
    assert spans["queue"].end_time == spans["score"].start_time
    assert spans["score"].end_time - spans["score"].start_time == 70
    assert spans["score"].end_time == spans["merge"].start_time


def test_a_collector_that_is_not_there_neither_fails_nor_holds_requests(serve, caplog):
    with serve(tracing__endpoint="http://127.0.0.1:9") as server, Client(server.address) as client:
        assert client.search("rivers", k=1).hits
    assert any(
        "opentelemetry" in record.name for record in caplog.records
    )  # lost, and not in silence


def test_nothing_of_opentelemetry_is_loaded_where_nothing_is_traced(vector_index):
    code = f"""
import sys
from csplade.service import settings as config
from csplade.client.client import Client
from csplade.service.grpc.server import running
flags = {{"index": {str(vector_index)!r}, "server.port": 0, "metrics.enabled": False}}
with running(config.load(None, flags)) as server, Client(server.address) as client:
    client.search({{1: 1.0}})
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_missing_extra_is_told_in_one_line(monkeypatch):
    assert tracer(Tracing()) is None
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(
        InputError, match=r"tracing\.endpoint is set, but .* pip install 'csplade\[tracing\]'"
    ):
        tracer(Tracing(endpoint="http://localhost:4317"))


@pytest.mark.parametrize(
    "endpoint", ["localhost:4317", "http://localhost", "http://localhost:4317/v1"]
)
def test_an_endpoint_is_scheme_host_and_port(endpoint):
    with pytest.raises(InputError, match=r"tracing\.endpoint"):
        config.load(None, {"tracing.endpoint": endpoint})
