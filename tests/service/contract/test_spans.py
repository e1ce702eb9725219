"""The spans of a request: the same in one process and on Ray."""

import uuid

from csplade.v1 import retrieval_pb2 as pb
from csplade.v1 import retrieval_pb2_grpc as rpc

CALLER_SPAN = "b7ad6b7169203331"
ALL_STAGES = ["queue", "tokenize", "encode", "sparsify", "score", "select", "merge", "fetch"]


def test_a_search_is_a_span_below_the_callers_with_a_span_for_each_stage(service, spans):
    trace = uuid.uuid4().hex
    with service.channel() as channel:
        response = rpc.RetrievalServiceStub(channel).Search(
            pb.SearchRequest(query=pb.Query(text="rivers in winter"), k=5, with_document=True),
            metadata=(("traceparent", f"00-{trace}-{CALLER_SPAN}-01"), ("x-request-id", "abc")),
        )
    span = spans.wait_for("csplade.v1.RetrievalService/Search", trace)
    assert span.parent_span_id.hex() == CALLER_SPAN
    assert span.kind == span.SPAN_KIND_SERVER
    facts = {one.key: one.value for one in span.attributes}
    assert facts["csplade.request_id"].string_value == "abc"
    assert facts["rpc.method"].string_value == "Search"
    assert facts["rpc.grpc.status_code"].int_value == 0
    children = spans.below(span)
    assert [child.name for child in children] == ALL_STAGES
    assert {child.trace_id for child in children} == {span.trace_id}
    for child in children:
        took = child.end_time_unix_nano - child.start_time_unix_nano
        assert took == getattr(response.timings, child.name)
    assert children[0].start_time_unix_nano >= span.start_time_unix_nano
    assert children[-1].end_time_unix_nano <= span.end_time_unix_nano
    assert spans.resources[0]["service.name"] == "csplade"
