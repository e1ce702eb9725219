"""Spans, as a collector on a loopback port receives them; and that nothing is loaded where there are none."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from csplade.errors import InputError
from csplade.index import Index
from csplade.service import config
from csplade.service.client import Client, ServiceError
from csplade.service.config import Tracing
from csplade.service.engine import Engine
from csplade.service.server import running
from csplade.v1 import retrieval_pb2 as pb
from csplade.v1 import retrieval_pb2_grpc as rpc

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="csplade[tracing] is not installed")
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from csplade.service.tracing import Tracer, part, stages, tracer

CALLER_TRACE, CALLER_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
METHOD = "csplade.v1.RetrievalService/"
ALL_STAGES = ["queue", "tokenize", "encode", "sparsify", "score", "select", "merge", "fetch"]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans, self.resources = [], []

    def Export(self, request, context):
        for group in request.resource_spans:
            self.resources.append({one.key: one.value.string_value for one in group.resource.attributes})
            self.spans += [span for scope in group.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str):
        return [span for span in self.spans if span.name == name]

    def below(self, parent):
        children = [span for span in self.spans if span.parent_span_id == parent.span_id]
        return sorted(children, key=lambda span: span.start_time_unix_nano)


@pytest.fixture
def collector():
    """One that listens; its address is ``endpoint``."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield collector
    server.stop(0)


@pytest.fixture
def serve(text_index, encoder, settings, collector):
    """A server that sends its spans to the collector; they are all there when it has ended."""

    def serve(**values):
        traced = settings(text_index, **({"tracing__endpoint": collector.endpoint} | values))
        return running(traced, lambda _: Engine(Index.open(text_index, threads=1), encoder))

    return serve


def test_a_search_is_a_span_below_the_callers_with_a_span_for_each_stage(serve, collector):
    with serve() as server, grpc.insecure_channel(server.address) as channel:
        response = rpc.RetrievalServiceStub(channel).Search(
            pb.SearchRequest(query=pb.Query(text="rivers in winter"), k=5, with_document=True),
            metadata=(("traceparent", f"00-{CALLER_TRACE}-{CALLER_SPAN}-01"), ("x-request-id", "abc")),
        )
    (span,) = collector.named(f"{METHOD}Search")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (CALLER_TRACE, CALLER_SPAN)
    assert span.kind == span.SPAN_KIND_SERVER
    facts = {one.key: one.value for one in span.attributes}
    assert facts["csplade.request_id"].string_value == "abc"
    assert facts["rpc.method"].string_value == "Search"
    assert facts["rpc.grpc.status_code"].int_value == 0
    children = collector.below(span)
    assert [child.name for child in children] == ALL_STAGES
    assert {child.trace_id for child in children} == {span.trace_id}
    for child in children:
        took = child.end_time_unix_nano - child.start_time_unix_nano
        assert took == getattr(response.timings, child.name)
    assert children[0].start_time_unix_nano >= span.start_time_unix_nano
    assert children[-1].end_time_unix_nano <= span.end_time_unix_nano
    assert collector.resources[0]["service.name"] == "csplade"


def test_encode_verify_streams_and_refusals_have_their_spans(serve, collector):
    with serve() as server, Client(server.address) as client:
        client.encode(["rivers", "birds"])
        client.verify("rivers in winter", k=3)
        list(client.search_many(["rivers", "birds at sea"], k=2))
        with pytest.raises(ServiceError, match="INVALID_ARGUMENT"):
            client.search("rivers", k=100_000)
    (encoding,), (verifying,) = collector.named(f"{METHOD}Encode"), collector.named(f"{METHOD}Verify")
    assert [span.name for span in collector.below(encoding)] == ALL_STAGES[:4]
    assert [span.name for span in collector.below(verifying)] == ALL_STAGES
    (stream,) = collector.named(f"{METHOD}SearchStream")
    queries = collector.below(stream)
    assert [span.name for span in queries] == ["SearchStreamQuery"] * 2
    assert all([child.name for child in collector.below(query)][:7] == ALL_STAGES[:7] for query in queries)
    (refused,) = collector.named(f"{METHOD}Search")
    assert collector.below(refused) == []
    codes = {one.key: one.value.int_value for one in refused.attributes}
    assert codes["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert refused.status.code == refused.status.STATUS_CODE_UNSET  # the caller's fault, not the server's


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
        trace.code(grpc.StatusCode.OK)
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
    assert any("opentelemetry" in record.name for record in caplog.records)  # lost, and not in silence


def test_nothing_of_opentelemetry_is_loaded_where_nothing_is_traced(vector_index):
    code = f"""
import sys
from csplade.service import config
from csplade.service.client import Client
from csplade.service.server import running
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


@pytest.mark.parametrize("endpoint", ["localhost:4317", "http://localhost", "http://localhost:4317/v1"])
def test_an_endpoint_is_scheme_host_and_port(endpoint):
    with pytest.raises(InputError, match=r"tracing\.endpoint"):
        config.load(None, {"tracing.endpoint": endpoint})
