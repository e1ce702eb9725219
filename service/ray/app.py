"""The Ray Serve application: ``serve run csplade.service.ray.app:build index=/data/index``.

Arguments, replicas, autoscaling, GPUs and placement are set in a Serve configuration file, see
``deploy/ray/``. ``csplade serve --ray`` starts Ray and this application on one machine.
"""

# Annotations must be evaluated here: Ray reads that of `build` to parse the arguments.

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application

from ...core.errors import InputError
from ...index import IndexManifest
from .. import settings as config
from ..settings import Settings
from .ingress import Ingress, ServiceReplica, Single
from .replicas import EncoderReplica, ShardReplica
from .versions import Target

BASE_BYTES = 512 * 2**20  # of a replica without its segments


class RayArguments(BaseModel):
    """Arguments of the application.

    Attributes:
        index: Directory of the index; replaces the setting ``index``.
        config: YAML file of settings, as for ``csplade serve --config``; on every node, at the same
            path.
        settings: Settings that override that file: dotted keys (``limits.k: 100``), or sections.
        version: Name of what is served; the deployments' ``user_config`` changes it later.
        apart: Whether encoder and shards have deployments of their own; None: only if the index has
            several shards.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: Path | None = None
    config: Path | None = None
    settings: dict[str, Any] = {}
    version: str = "1"
    apart: bool | None = None

    def resolved(self) -> Settings:
        """Return all settings.

        Raises:
            InputError: a setting that is not valid, no index, or TLS or writing, which are not
                supported on Ray.
        """
        settings = config.load(self.config, {"index": self.index, **self.settings})
        if settings.index is None:
            raise InputError("index: not set; name the directory of the index")
        if settings.security.tls_certificate is not None:
            raise InputError(
                "security.tls_certificate is set, but Ray's HAProxy speaks no TLS: end TLS in "
                "front of it"
            )
        if settings.writable:
            raise InputError(
                "writable: true, but a service on Ray does not write; serve the index by one "
                "process, without --ray"
            )
        return settings.model_copy(update={"index": settings.index.resolve()})


def build(args: RayArguments) -> Application:
    """Return the application for an index.

    With one shard (and not ``apart``) it is a single deployment, ``ingress``, that holds encoder
    and shard: one hop. Otherwise ``ingress`` fans out to ``encoder`` and ``shard-0``, ``shard-1``,
    ...: two hops.

    Raises:
        InputError: a wrong setting.
        CorruptError: no index there; its directory must be seen, at the same path, by every node.
    """
    settings = args.resolved()
    assert settings.index is not None
    manifest = IndexManifest.open(settings.index)
    target = Target(version=args.version, index=settings.index, model=settings.model.path)
    one_process = manifest.shard_count == 1 and not args.apart
    # Ray accepts more than may be queued, so that csplade's own queue rejects the rest: at once,
    # and with the time to retry after.
    ongoing = 4 * settings.batching.queue
    common: dict[str, Any] = {
        "max_ongoing_requests": ongoing,
        "health_check_period_s": 2,
        "health_check_timeout_s": 10,
        "graceful_shutdown_timeout_s": settings.server.drain_seconds,
        "max_surge_percent": 100,  # start the new replica before the old one ends
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }
    told = common | {"user_config": target.model_dump(mode="json")}
    if one_process:
        whole = serve.deployment(
            name="ingress", ray_actor_options=_resources(1, manifest.bytes), **told
        )
        return whole(_with_http(Single, settings)).bind(settings)
    shards = []
    for one in manifest.shards:
        shard = serve.deployment(
            name=f"shard-{one.shard}", ray_actor_options=_resources(1, one.bytes), **told
        )
        shards.append(shard(ShardReplica).bind(settings, one.shard))
    encoder = None
    if (
        settings.model.enabled
        and (target.model or (manifest.encoder or {}).get("model")) is not None
    ):
        encoders = serve.deployment(name="encoder", ray_actor_options=_resources(1, 0), **told)
        encoder = encoders(EncoderReplica).bind(settings)
    ingress = serve.deployment(name="ingress", ray_actor_options=_resources(1, 0), **common)
    return ingress(_with_http(Ingress, settings)).bind(settings, shards, encoder)


def _with_http(deployment: type[ServiceReplica], settings: Settings) -> Any:
    """Return the deployment with its HTTP application, if HTTP is enabled."""
    return serve.ingress()(deployment) if settings.http.enabled else deployment


def _resources(cpus: float, held: int) -> dict[str, Any]:
    """What Ray must find on a node: ``held`` bytes of segments, and the process around them."""
    return {"num_cpus": cpus, "memory": BASE_BYTES + held}
