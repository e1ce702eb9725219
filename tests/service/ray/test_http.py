"""HTTP on Ray: the ingress answers it beside gRPC, and serves the explorer."""

import pytest

from csplade.client.client import Client

from ..browser import Page
from ..caller import call


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


@pytest.mark.timeout(600)
def test_the_explorer_on_ray(ray_cluster, settings, text_index, tiny_model, browser):
    """Two applications, compared in the page of one; uploads are the single process's."""
    from ray.serve.context import _get_global_client

    from csplade.service.ray.cluster import run

    address = f"127.0.0.1:{_get_global_client().http_config.port}"
    chosen = {"model__path": str(tiny_model), "model__device": "cpu", "scoring__threads": 1}
    chosen |= {"http__enabled": True, "http__explorer": True}
    services = [{"name": "b", "target": ray_cluster, "application": "second"}]
    run(settings(text_index, **chosen), ray_cluster, name="second")
    run(settings(text_index, http__services=services, **chosen), ray_cluster, name="first")

    config = call(address, "/first/explore/config.json").body
    assert config == {"grpc": ray_cluster, "upload": None, "services": ["b"]}
    assert call(address, "/first/explore/collections", {}).status == 404
    assert call(address, "/second/explore/services/b/info", {}).status == 404

    page = Page(browser, f"http://{address}/first/explore")
    page.resize(1400)
    assert not page.all("#tab-upload")
    page.submit("search", text="iron in winter", k="5")
    with Client(ray_cluster, application="first") as client:
        answer = client.search("iron in winter", 5)
    assert [one.text for one in page.all("#search .hits .id")] == [hit.id for hit in answer]
    shown = page.one("#search pre").get_attribute("textContent")
    assert f"http://{address}/first/v1/search" in shown
    page.open("compare")
    page.submit("compare", text="iron in winter")
    assert {one.text for one in page.all("#compare .move")} == {"same rank"}
    assert page.problems() == []
