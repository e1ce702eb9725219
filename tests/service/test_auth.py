"""TLS, mutual TLS, and API keys."""

import os
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from csplade.client.async_client import AsyncClient
from csplade.client.client import Client
from csplade.client.connection import ServiceError
from csplade.core.errors import InputError, KeyMissingError, KeyWrongError, UnavailableError
from csplade.service import auth
from csplade.service.auth import Keys
from csplade.service.grpc.server import running
from csplade.v1 import retrieval_pb2 as pb
from csplade.v1 import retrieval_pb2_grpc as rpc

from ..certificates import authority, leaf


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """Two authorities; a server's and a client's certificate of the first, a client's of the
    second.
    """
    directory = tmp_path_factory.mktemp("pki")
    ours, theirs = authority(directory, "ours"), authority(directory, "theirs")
    return SimpleNamespace(
        ca=ours.certificate,
        server=leaf(directory, "server", ours),
        client=leaf(directory, "client", ours),
        stranger=leaf(directory, "stranger", theirs),
        other_ca=theirs.certificate,
    )


def tls(pki, **more):
    return {
        "security__tls_certificate": pki.server.certificate,
        "security__tls_key": pki.server.private,
        **more,
    }


def test_tls(pki, vector_index, settings):
    with running(settings(vector_index, **tls(pki))) as server:
        with Client(server.address, ca=pki.ca) as client:
            assert client.search({1: 1.0}).matched > 0
        for wrong in (
            Client(server.address, timeout=5),
            Client(server.address, ca=pki.other_ca, timeout=5),
        ):
            with wrong as client, pytest.raises(ServiceError, match="UNAVAILABLE"):
                client.info()


async def test_mutual_tls(pki, vector_index, settings):
    with running(settings(vector_index, **tls(pki, security__client_ca=pki.ca))) as server:
        async with AsyncClient(
            server.address,
            ca=pki.ca,
            certificate=pki.client.certificate,
            private_key=pki.client.private,
        ) as client:
            assert (await client.info()).index["documents"] == 300
        for own in (
            {},
            {"certificate": pki.stranger.certificate, "private_key": pki.stranger.private},
        ):
            async with AsyncClient(server.address, ca=pki.ca, timeout=5, **own) as client:
                with pytest.raises(ServiceError, match="UNAVAILABLE"):
                    await client.info()


@pytest.fixture
def keys_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# for the tests\nfirst-key\n\n  second-key  \n")
    return path


def replace(path, content):
    """Swap a file as an operator should: written aside and renamed."""
    aside = path.with_suffix(".part")
    aside.write_text(content)
    os.replace(aside, path)


def test_keys_over_the_wire(keys_file, vector_index, settings):
    def code(key):
        with Client(server.address, key=key) as client:
            try:
                client.search({1: 1.0})
                return "OK"
            except ServiceError as error:
                return error.code

    with running(settings(vector_index, security__keys_file=keys_file)) as server:
        keys = ("first-key", "second-key", None, "third-key", "first-ke")
        assert [code(key) for key in keys] == [
            "OK", "OK", "UNAUTHENTICATED", "PERMISSION_DENIED", "PERMISSION_DENIED",
        ]  # fmt: skip
        replace(keys_file, "third-key\n")
        assert [code(key) for key in ("first-key", "third-key")] == ["PERMISSION_DENIED", "OK"]
        with grpc.insecure_channel(server.address) as channel:
            assert (
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status
                == 1
            )
            assert ProtoReflectionDescriptorDatabase(channel).get_services()
            with pytest.raises(grpc.RpcError) as error:
                list(
                    rpc.RetrievalServiceStub(channel).SearchStream(iter([pb.SearchStreamRequest()]))
                )
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "first-key" not in error.value.details()


def test_keys_are_bearer_tokens(keys_file):
    keys = Keys(keys_file)
    keys.check("Bearer first-key")
    keys.check("bearer second-key")
    for missing in (None, "", "first-key", "Basic first-key", "Bearer "):
        with pytest.raises(KeyMissingError):
            keys.check(missing)
    for wrong in ("Bearer # for the tests", "Bearer second-key-and-more", "Bearer ü"):
        with pytest.raises(KeyWrongError):
            keys.check(wrong)


def test_a_keys_file_that_is_removed_revokes_its_keys(keys_file):
    keys = Keys(keys_file)
    keys_file.unlink()
    with pytest.raises(KeyWrongError):
        keys.check("Bearer first-key")
    replace(keys_file, "")
    with pytest.raises(KeyWrongError):
        keys.check("Bearer first-key")
    replace(keys_file, "first-key")
    keys.check("Bearer first-key")


def test_an_edit_that_keeps_time_size_and_inode_is_noticed(keys_file, monkeypatch):
    keys = Keys(keys_file)
    keys.check("Bearer first-key")
    before = keys_file.stat()
    with open(keys_file, "r+b") as file:
        file.write(keys_file.read_bytes().replace(b"first", b"other"))
    os.utime(keys_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = keys_file.stat()
    assert (now.st_mtime_ns, now.st_size, now.st_ino) == (
        before.st_mtime_ns, before.st_size, before.st_ino,
    )  # fmt: skip
    monkeypatch.setattr(auth, "REFRESH_SECONDS", 0.0)
    with pytest.raises(KeyWrongError):
        keys.check("Bearer first-key")
    keys.check("Bearer other-key")


def test_keys_have_roles(keys_file):
    replace(keys_file, "reader\nwriter search write\nroot\tadmin\n")
    keys = Keys(keys_file)
    keys.check("Bearer reader")
    keys.check("Bearer writer", "write")
    keys.check("Bearer root", "admin")
    for key, role in (("reader", "write"), ("writer", "admin"), ("root", "search")):
        with pytest.raises(KeyWrongError, match=f"lacks the role {role}"):
            keys.check(f"Bearer {key}", role)


def test_only_a_newline_ends_a_key(keys_file):
    strange = "a\x0bb\x0cc\x1cd\x85e\u2028f"
    replace(keys_file, f"{strange}\r\nsecond")
    keys = Keys(keys_file)
    keys.check(f"Bearer {strange}")
    with pytest.raises(KeyWrongError):
        keys.check("Bearer a")


@pytest.mark.parametrize("content", [b"k\xe4y\n", b"key search read\n"])
def test_a_keys_file_that_is_not_valid_is_named_without_the_key(keys_file, content):
    keys_file.write_bytes(content)
    with pytest.raises(InputError, match=r"security\.keys_file: .*keys:1: ") as error:
        Keys(keys_file)
    assert "k\xe4y" not in str(error.value)


def test_new_certificates_are_taken_into_use(pki, vector_index, settings, tmp_path):
    files = {name: tmp_path / name for name in ("certificate", "private")}
    for name, path in files.items():
        path.write_bytes(getattr(pki.stranger, name).read_bytes())
    chosen = settings(
        vector_index,
        security__tls_certificate=files["certificate"],
        security__tls_key=files["private"],
    )
    with running(chosen) as server:
        with Client(server.address, ca=pki.other_ca) as client:
            assert client.search({1: 1.0}).matched
        for name, path in files.items():
            path.write_bytes(getattr(pki.server, name).read_bytes())
        with Client(server.address, ca=pki.ca) as client:
            assert client.search({1: 1.0}).matched


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"security__keys_file": "none"}, r"security\.keys_file: .*none: No such file"),
        ({"security__keys_file": "empty"}, r"security\.keys_file: .*empty holds no key"),
        (
            {"security__tls_certificate": "none", "security__tls_key": "none"},
            r"security\.tls_key: .*No such file",
        ),
        (
            {"security__tls_certificate": "empty", "security__tls_key": "empty"},
            r"security\.tls_key: .*not a PEM file",
        ),
    ],
)
def test_files_that_do_not_serve_are_named(tmp_path, settings, vector_index, values, complaint):
    (tmp_path / "empty").touch()
    values = {key: tmp_path / name for key, name in values.items()}
    with pytest.raises(InputError, match=complaint), running(settings(vector_index, **values)):
        pass


def test_a_taken_port_is_named(settings, vector_index):
    with running(settings(vector_index, metrics__enabled=True)) as server:
        port, metrics_port = (
            int(one.rpartition(":")[2]) for one in (server.address, server.metrics_address)
        )
        for values, complaint in [
            (
                {"server__port": port},
                r"server\.host, server\.port: cannot listen at 127\.0\.0\.1:\d+",
            ),
            (
                {"metrics__enabled": True, "metrics__port": metrics_port},
                r"metrics\.host, metrics\.port",
            ),
        ]:
            with (
                pytest.raises(UnavailableError, match=complaint),
                running(settings(vector_index, **values)),
            ):
                pass
