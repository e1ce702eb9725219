"""Other services, asked through this one: the same answers, their own errors, and no others."""

import pytest

from csplade.core.errors import InputError
from csplade.service.http.services import OtherServices
from csplade.service.settings import Service, load

from ...certificates import authority, leaf
from ..caller import call

CALLS = {
    "search": {"query": {"text": "iron in winter"}, "k": 9, "explain": True, "withDocument": True},
    "search/batch": {"requests": [{"query": {"text": "iron"}}, {"query": {"text": "winter"}}]},
    "explain": {"query": {"text": "iron in winter"}, "ids": ["d3", "nothing"]},
    "encode": {"texts": ["rivers"], "kind": "TEXT_KIND_QUERY", "decode": True, "attribution": True},
    "verify": {"query": {"text": "iron in winter"}, "k": 9},
    "info": {},
}


def without_times(body):
    """An answer without what depends on the time it took."""
    if isinstance(body, list):
        return [without_times(one) for one in body]
    if not isinstance(body, dict):
        return body
    return {
        name: without_times(value)
        for name, value in body.items()
        if name not in ("timings", "referenceNanoseconds")
    }


@pytest.mark.parametrize("rpc", CALLS)
def test_answers_are_those_of_the_service(near, other, rpc):
    through = call(near.http_address, f"/explore/services/b/{rpc}", CALLS[rpc])
    direct = call(other.http_address, f"/v1/{rpc}", CALLS[rpc])
    assert (through.status, direct.status) == (200, 200)
    assert without_times(through.body) == without_times(direct.body)
    here = call(near.http_address, f"/v1/{rpc}", CALLS[rpc])
    assert without_times(here.body) != without_times(direct.body)


def test_only_services_of_the_settings_are_asked(near, text_server, other):
    assert call(near.http_address, "/explore/config.json").body["services"] == ["b", "gone"]
    for name in ("c", other.address, "..", "%2e%2e"):
        reply = call(near.http_address, f"/explore/services/{name}/info", {})
        assert (reply.status, reply.body["code"]) == (404, "not_found"), name
    assert call(text_server.http_address, "/explore/config.json").body["services"] == []
    assert call(text_server.http_address, "/explore/services/b/info", {}).status == 404
    assert call(other.http_address, "/explore/services/b/info", {}).status == 404


def test_errors_name_the_service(near):
    bad = call(near.http_address, "/explore/services/b/search", {"query": {"text": "a"}, "k": 0})
    assert (bad.status, bad.body["code"]) == (400, "invalid_argument")
    assert bad.body["message"].startswith("b: k: 0")
    gone = call(near.http_address, "/explore/services/gone/info", {})
    assert (gone.status, gone.body["code"]) == (503, "unavailable")
    assert gone.body["message"].startswith("gone: ")
    late = call(near.http_address, "/explore/services/b/info", {}, connect_timeout_ms="0")
    assert (late.status, late.body["code"]) == (504, "deadline_exceeded")
    wrong = call(near.http_address, "/explore/services/b/search", "{}", content_type="text/plain")
    assert wrong.status == 415


def test_keys_stay_where_they_belong(serve, text_index, other_index, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_text("key-of-ours\n")
    theirs.write_text("key-of-theirs\n")
    with serve(other_index, security__keys_file=theirs) as other:
        services = [
            {"name": "open", "target": other.address},
            {"name": "keyed", "target": other.address, "key_file": str(theirs)},
        ]
        options = {"http__services": services, "security__keys_file": ours}
        with serve(text_index, http__explorer=True, **options) as near:

            def ask(name, key=None):
                headers = {} if key is None else {"authorization": f"Bearer {key}"}
                return call(near.http_address, f"/explore/services/{name}/info", {}, **headers)

            assert ask("keyed").status == 401
            assert ask("keyed", "key-of-theirs").status == 403
            assert ask("keyed", "key-of-ours").status == 200
            rejected = ask("open", "key-of-ours")
            assert (rejected.status, rejected.body["code"]) == (400, "failed_precondition")
            assert "rejects the key of http.services" in rejected.body["message"]


def test_tls_with_an_authority(serve, text_index, other_index, tmp_path):
    issuer = authority(tmp_path, "issuer")
    own = leaf(tmp_path, "server", issuer)
    files = {"security__tls_certificate": own.certificate, "security__tls_key": own.private}
    with serve(other_index, http__enabled=False, **files) as other:
        services = [
            {"name": "trusted", "target": other.address, "ca": str(issuer.certificate)},
            {"name": "unknown", "target": other.address, "tls": True},
            {"name": "plain", "target": other.address},
        ]
        with serve(text_index, http__explorer=True, http__services=services) as near:
            statuses = [
                call(near.http_address, f"/explore/services/{one['name']}/info", {}).status
                for one in services
            ]
    assert statuses == [200, 503, 503]


def test_key_files_are_read_at_the_start(tmp_path):
    def make(path):
        OtherServices([Service(name="b", target="h:1", key_file=path)])

    with pytest.raises(InputError, match=r"http\.services: b: key_file: .*none: "):
        make(tmp_path / "none")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InputError, match="is empty; write the key into it"):
        make(tmp_path / "empty")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("services: [{name: a, target: 'h:1'}]", "services is set, but explorer is not"),
        (
            "explorer: true, services: [{name: a, target: 'h:1'}, {name: a, target: 'h:2'}]",
            "two services are named 'a'",
        ),
        (
            "explorer: true, services: [{name: a/b, target: 'h:1'}]",
            r"c\.yaml: http\.services\.0\.name = 'a/b': String should match",
        ),
        (
            "explorer: true, services: [{name: a, target: 'http://h'}]",
            r"c\.yaml: http\.services\.0\.target = 'http://h': String should match",
        ),
        (
            "explorer: true, services: [{name: a, target: 'h:1', keyfile: x}]",
            r"c\.yaml: http\.services\.0\.keyfile: unknown key; known are name, target",
        ),
    ],
)
def test_bad_settings_are_one_line(tmp_path, content, complaint):
    (tmp_path / "c.yaml").write_text(f"http: {{{content}}}")
    with pytest.raises(InputError, match=complaint) as error:
        load(tmp_path / "c.yaml")
    assert "\n" not in str(error.value)
