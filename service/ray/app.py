"""The Ray Serve application: ``serve run csplade.service.ray.app:build index=/data/index``.

Plain Serve: arguments, replicas, autoscaling, GPUs and placement stand in a Serve configuration
file, see ``deploy/ray/``. ``csplade serve --ray`` starts Ray and this application on one machine.
"""

# Annotations must be evaluated here: Ray looks at that of `build` to know what to make of the
# arguments.

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application

from ...core.errors import InputError
from ...index import IndexManifest
from .. import settings as config
from ..settings import Settings
from .ingress import Ingress, Single
from .replicas import EncoderReplica, ShardReplica
from .versions import Target

BASE_BYTES = 512 * 2**20  # what a replica needs beside its segments


class RayArguments(BaseModel):
    """Arguments of the application.

    Attributes:
        index: directory of the index; instead of the setting ``index``.
        config: YAML file of settings, as for ``csplade serve --config``; on every node, at the same
            path.
        settings: settings over that file: dotted keys (``limits.k: 100``), or sections.
        version: name of what is served; a change of the deployments' ``user_config`` gives another.
        apart: encoder and shards in deployments of their own; None: only when the index has several
            shards.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: Path | None = None
    config: Path | None = None
    settings: dict[str, Any] = {}
    version: str = "1"
    apart: bool | None = None

    def resolved(self) -> Settings:
        """The whole tree of settings.

        Raises:
            InputError: a wrong setting, no index, or TLS, which is not to be had here.
        """
        settings = config.load(self.config, {"index": self.index, **self.settings})
        if settings.index is None:
            raise InputError("index is not set, must be the directory of the index")
        if settings.security.tls_certificate is not None:
            raise InputError(
                "security.tls_certificate is set, but Ray's HAProxy speaks no TLS: end TLS in "
                "front of it"
            )
        return settings.model_copy(update={"index": settings.index.resolve()})


def build(args: RayArguments) -> Application:
    """The application for an index.

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
    # Whatever may be queued is let in, and refused by csplade's own queue: at once, and telling
    # when to try again.
    ongoing = 4 * settings.batching.queue
    common: dict[str, Any] = {
        "max_ongoing_requests": ongoing,
        "health_check_period_s": 2,
        "health_check_timeout_s": 10,
        "graceful_shutdown_timeout_s": settings.server.drain_seconds,
        "max_surge_percent": 100,  # the new replica is there before the old one goes
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }
    told = common | {"user_config": target.model_dump(mode="json")}
    if one_process:
        whole = serve.deployment(
            name="ingress", ray_actor_options=_resources(1, manifest.bytes), **told
        )
        return whole(Single).bind(settings)
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
    return ingress(Ingress).bind(settings, shards, encoder)


def _resources(cpus: float, held: int) -> dict[str, Any]:
    """What Ray must find on a node: ``held`` bytes of segments, and the process around them."""
    return {"num_cpus": cpus, "memory": BASE_BYTES + held}
