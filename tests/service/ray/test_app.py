"""The application as it is built, and the configuration files that are shipped for it."""

import os
from pathlib import Path

import pytest
import yaml

pytest.importorskip("ray", reason="Ray is not installed")

from pydantic import ValidationError
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

from csplade.core.errors import CorruptError, InputError
from csplade.index import IndexManifest
from csplade.service.ray import cluster as ray_start
from csplade.service.ray.app import BASE_BYTES, RayArguments, build
from csplade.service.ray.grpc_context import SERVICER_FUNCTIONS
from csplade.service.ray.replicas import Target

FILES = sorted((Path(__file__).parents[3] / "deploy" / "ray").glob("*.yaml"))


def deployments(application) -> dict:
    """name -> deployment, of all that an application binds."""
    found, waiting = {}, [application]
    while waiting:
        one = waiting.pop()
        found[one._bound_deployment.name] = one._bound_deployment
        for argument in one._bound_deployment.init_args:
            inner = argument if isinstance(argument, list) else [argument]
            waiting += [part for part in inner if hasattr(part, "_bound_deployment")]
    return found


def test_every_shard_is_a_deployment_with_room_for_its_segments(text_index, tiny_model):
    found = deployments(build(RayArguments(index=text_index, version="7")))
    assert sorted(found) == ["encoder", "ingress", "shard-0", "shard-1"]
    for shard in IndexManifest.open(text_index).shards:
        deployment = found[f"shard-{shard.shard}"]
        assert deployment.ray_actor_options["memory"] == BASE_BYTES + shard.bytes
        assert Target.model_validate(deployment.user_config) == Target(
            version="7", index=text_index
        )
    assert found["ingress"].user_config is None


def test_one_shard_shares_its_replica_with_the_encoder(string_index, vector_index):
    assert sorted(deployments(build(RayArguments(index=string_index)))) == ["ingress"]
    assert sorted(deployments(build(RayArguments(index=string_index, apart=True)))) == [
        "ingress",
        "shard-0",
    ]
    assert sorted(deployments(build(RayArguments(index=vector_index)))) == [
        "ingress", "shard-0", "shard-1", "shard-2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        ({}, InputError, "index: not set"),
        ({"index": "/nothing"}, CorruptError, "/nothing: no index here"),
        ({"index": "/nothing", "settings": {"limits.kk": 1}}, InputError, "limits.kk: unknown key"),
        (
            {"index": "/x", "settings": {"security.tls_certificate": "a", "security.tls_key": "b"}},
            InputError,
            "HAProxy speaks no TLS",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, error, complaint):
    with pytest.raises(error, match=complaint):
        build(RayArguments(**arguments))


def test_unknown_arguments_are_errors():
    with pytest.raises(ValidationError, match="idnex"):
        RayArguments(idnex="/data")
    with pytest.raises(ValidationError, match="generation"):
        Target(generation=2)


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_shipped_configurations_are_what_serve_takes(file):
    content = next(yaml.safe_load_all(file.read_text()))
    if content.get("kind") == "RayService":
        import ray

        assert content["spec"]["rayClusterConfig"]["rayVersion"] == ray.__version__
        content = yaml.safe_load(content["spec"]["serveConfigV2"])
    schema = ServeDeploySchema.model_validate(content)
    assert schema.grpc_options.grpc_servicer_functions == SERVICER_FUNCTIONS
    (application,) = schema.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    arguments = RayArguments(**application.args)
    with pytest.raises(CorruptError, match="/data/index: no index here"):
        build(arguments)  # every setting is known; only the index is not there
    with pytest.raises(CorruptError, match="/data/index: no index here"):
        call_user_app_builder_with_args_if_necessary(build, application.args)  # as Ray calls it
    names = [deployment.name for deployment in application.deployments]
    shards = sum(name.startswith("shard-") for name in names)
    assert names == (
        ["ingress", "encoder", *(f"shard-{i}" for i in range(shards))] if shards else ["ingress"]
    )
    for deployment in application.deployments[1:]:
        assert Target.model_validate(deployment.user_config) == Target(
            version="1", index="/data/index"
        )


def test_there_is_a_configuration_for_every_case():
    assert [file.name for file in FILES] == [
        "four-shards.yaml",
        "kuberay.yaml",
        "laptop.yaml",
        "one-gpu.yaml",
    ]


def test_replicas_have_ports_that_no_other_kind_has(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", {})
    ray_start.prepare(tmp_path)
    grpc, http = (
        {int(os.environ[f"RAY_SERVE_DIRECT_INGRESS_{end}_{kind}_PORT"]) for end in ("MIN", "MAX")}
        for kind in ("GRPC", "HTTP")
    )
    assert max(grpc) - min(grpc) == max(http) - min(http) == ray_start.PORTS - 1
    assert max(grpc) < min(http)
