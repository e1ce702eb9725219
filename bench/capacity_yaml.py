"""A plan as settings: of a single process, or a Ray Serve configuration as in deploy/ray."""

from __future__ import annotations

import math
from typing import Any

import yaml

from ..service.memory import PROCESS_BYTES
from .capacity import RECOVERY, VECTORS_ONLY, Plan

QUEUE = (64, 512)  # fewest: an Encode of 64 texts must fit; most: the default
REQUESTS = 16  # ongoing in a replica that does all of a request, before autoscaling adds one
MERGED = 32  # likewise, in an ingress, which mostly waits
MESSAGES = 4  # likewise, in an encoder: every ingress has at most 16 on their way, of up to 64 queries each


def settings(plan: Plan) -> dict[str, Any]:
    """What differs from the defaults, for ``csplade serve --config``."""
    question = plan.question
    device = "cuda" if question.gpu_memory else "cpu"
    model: dict[str, Any] = {"enabled": False}
    if question.model != VECTORS_ONLY:
        model = {"path": question.model, "device": device, "quantization": question.quantization}
    return {
        "index": "/data/index",
        "model": model,
        "scoring": {"device": device},
        "batching": {
            "queue": queue(plan),
            "tokens": question.batch_tokens,
            "queries": question.batch_queries,
        },
    }


def queue(plan: Plan) -> int:
    """Places for what can be worked off within five seconds; the default where nothing was
    measured.
    """
    fewest, most = QUEUE
    return most if plan.most is None else min(most, max(fewest, math.floor(plan.most * RECOVERY)))


def ray_config(plan: Plan) -> dict[str, Any]:
    """The Ray Serve configuration, for ``serve deploy``."""
    question = plan.question
    on_gpu = bool(question.gpu_memory)
    flat = {
        f"{section}.{key}": value
        for section, values in settings(plan).items()
        if isinstance(values, dict)
        for key, value in values.items()
    }
    apart = plan.shards > 1 or not plan.together
    deployments: list[dict[str, Any]] = []
    if apart:
        deployments.append(
            {"name": "ingress", **_scaled(plan.replicas, MERGED), **_actor(PROCESS_BYTES, 1, 0)}
        )
        if question.model != VECTORS_ONLY:
            beside = (
                plan.parts["weights"]
                + plan.parts["activations"]
                + plan.parts.get("process", PROCESS_BYTES)
            )
            # An encoder gets a GPU to itself: the shards leave it no room.
            deployments.append(
                {
                    "name": "encoder",
                    **_scaled(plan.replicas, MESSAGES),
                    **_actor(beside, 1, int(on_gpu)),
                }
            )
        shard = {"num_replicas": plan.replicas, "max_replicas_per_node": 1}
        deployments += [
            {"name": f"shard-{number}", **shard, **_actor(plan.shard_bytes, 1, int(on_gpu))}
            for number in range(plan.shards)
        ]
    else:
        deployments.append(
            {
                "name": "ingress",
                **_scaled(plan.replicas, REQUESTS),
                **_actor(plan.shard_bytes, 1, int(on_gpu)),
            }
        )
    arguments: dict[str, Any] = {"index": "/data/index", "settings": flat}
    if apart and plan.shards == 1:
        arguments["apart"] = True
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": 8000},
        "grpc_options": {
            "port": 50051,
            "grpc_servicer_functions": [
                "csplade.service.ray.grpc_context:add_retrieval_service",
                "csplade.service.ray.grpc_context:add_health_service",
            ],
        },
        "applications": [
            {
                "name": "csplade",
                "route_prefix": "/",
                "import_path": "csplade.service.ray.app:build",
                "args": arguments,
                "deployments": deployments,
            }
        ],
    }


def _scaled(replicas: int, ongoing: int) -> dict[str, Any]:
    return {
        "autoscaling_config": {
            "min_replicas": replicas,
            "max_replicas": 2 * replicas,
            "target_ongoing_requests": ongoing,
        }
    }


def _actor(memory: int, cpus: int, gpus: int) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": cpus, "memory": memory}
    return {"ray_actor_options": options | ({"num_gpus": gpus} if gpus else {})}


def write(plan: Plan, command: str) -> str:
    """The YAML that the plan comes to, with how to use it."""
    single = plan.shards == 1 and plan.replicas == 1 and plan.together
    use = (
        "csplade serve --config FILE"
        if single
        else "serve deploy FILE; see deploy/ray/four-shards.yaml for Ray's start"
    )
    content = settings(plan) if single else ray_config(plan)
    head = f"# Made by: {command}\n# Use: {use}\n# Build the index with: csplade index build --corpus CORPUS --out /data/index"
    head += f" --shards {plan.shards}\n"
    return head + yaml.safe_dump(content, sort_keys=False)
