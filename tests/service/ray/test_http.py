"""HTTP on Ray: the ingress answers it beside gRPC."""

import pytest

from csplade.client.client import Client

from ..http.conftest import call


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("index", "query"),
    [("string_index", {"iron": 1.0, "river": 0.5}), ("vector_index", {5: 1.0, 40: 2.0, 77: 0.5})],
)
def test_http_answers_beside_grpc(ray_cluster, settings, request, index, query):
    from ray.serve.context import _get_global_client

    from csplade.service.ray.cluster import run

    name = f"http-{index}"
    path = request.getfixturevalue(index)
    run(settings(path, http__enabled=True, scoring__threads=1), ray_cluster, name=name)
    address = f"127.0.0.1:{_get_global_client().http_config.port}"
    terms = "tokens" if index == "string_index" else "indices"
    vector = {terms: list(query), "values": list(query.values())}
    body = {"query": {"vector": vector}, "k": 5, "explain": True}
    reply = call(address, f"/{name}/v1/search", body, x_request_id="mine")
    assert (reply.status, reply.headers["x-request-id"]) == (200, "mine")
    with Client(ray_cluster, application=name) as client:
        answer = client.search(query, 5, explain=True)
    assert [(hit["id"], hit["integerScore"]) for hit in reply.body["hits"]] == [
        (hit.id, hit.integer_score) for hit in answer
    ]
    bad = call(address, f"/{name}/v1/search", {"k": 1})
    assert (bad.status, bad.body["code"]) == (400, "invalid_argument")
    assert call(address, f"/{name}/readyz").status == 200
