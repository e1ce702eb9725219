"""The OpenAPI document is that of the proto, and the server keeps it."""

import json
from pathlib import Path

import pytest

# Here and not in the test: CPython may fail to parse its modules deep in the stack.
try:
    import schemathesis.specs.openapi.schemas
except ModuleNotFoundError:
    schemathesis = None
from hypothesis import HealthCheck, given, settings

from ..caller import call

COMMITTED = Path(__file__).parents[3] / "service" / "http" / "openapi.json"


def test_the_document_is_generated_from_the_proto():
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    from csplade.service.http.openapi import render

    assert COMMITTED.read_text(encoding="utf-8") == render(), "run make proto"


def test_the_server_serves_it(vector_server):
    assert call(vector_server.http_address, "/openapi.json").body == json.loads(
        COMMITTED.read_text(encoding="utf-8")
    )


def test_every_message_and_field_is_described():
    schemas = json.loads(COMMITTED.read_text(encoding="utf-8"))["components"]["schemas"]
    for name, schema in schemas.items():
        assert schema["description"], name
    search = schemas["SearchRequest"]
    assert "1 to limits.k" in search["properties"]["k"]["description"]
    assert "required" not in search
    assert "matchedDocuments" in schemas["SearchResponse"]["required"]


@pytest.mark.parametrize("path", json.loads(COMMITTED.read_text(encoding="utf-8"))["paths"])
def test_no_request_breaks_the_contract(path, text_server):
    if schemathesis is None:
        pytest.skip("schemathesis is not installed")
    from schemathesis.specs.openapi import checks

    schemathesis.serializer.alias("application/x-ndjson", "text/plain")
    schema = schemathesis.openapi.from_dict(json.loads(COMMITTED.read_text(encoding="utf-8")))
    schema.config.update(base_url=f"http://{text_server.http_address}")
    (operation,) = schema[path].values()
    modes = schemathesis.GenerationMode
    strategies = [operation.as_strategy(generation_mode=mode) for mode in modes]

    # Whether data is accepted is not checked: JSON of proto3 is more lenient than a schema can say.
    @settings(
        max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(strategies[0] | strategies[1])
    def check(case):
        response = case.call()
        assert response.status_code != 500
        case.validate_response(
            response,
            checks=[
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_schema_conformance,
            ],
        )

    check()
