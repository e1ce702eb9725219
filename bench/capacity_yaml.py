"""Write a capacity plan as settings of one process, or as a Ray Serve configuration."""

from __future__ import annotations

import math
from typing import Any

import yaml

from ..service.memory import PROCESS_BYTES
from .capacity import QUEUE_DRAIN_SECONDS, VECTORS_ONLY, CapacityPlan

MIN_QUEUE, MAX_QUEUE = 64, 512  # an Encode of 64 texts must fit; the default
# Ongoing requests per replica, above which autoscaling adds a replica.
WHOLE_REQUESTS = 16  # of a replica that does every stage of a request
INGRESS_REQUESTS = 32  # of an ingress, which mostly waits
ENCODER_MESSAGES = 4  # of an encoder; each ingress sends at most 16, of up to 64 queries each


def settings(plan: CapacityPlan) -> dict[str, Any]:
    """Return the settings that differ from the defaults, for ``csplade serve --config``."""
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


def queue(plan: CapacityPlan) -> int:
    """Return the queue length that drains in five seconds; the default if no speed is known."""
    if plan.max_rate is None:
        return MAX_QUEUE
    return min(MAX_QUEUE, max(MIN_QUEUE, math.floor(plan.max_rate * QUEUE_DRAIN_SECONDS)))


def ray_config(plan: CapacityPlan) -> dict[str, Any]:
    """Return the Ray Serve configuration, for ``serve deploy``."""
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
            {
                "name": "ingress",
                **_scaled(plan.replicas, INGRESS_REQUESTS),
                **_actor(PROCESS_BYTES, 1, 0),
            }
        )
        if question.model != VECTORS_ONLY:
            beside = (
                plan.parts["weights"]
                + plan.parts["activations"]
                + plan.parts.get("process", PROCESS_BYTES)
            )
            # An encoder gets a GPU of its own: the shards leave no memory for it.
            deployments.append(
                {
                    "name": "encoder",
                    **_scaled(plan.replicas, ENCODER_MESSAGES),
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
                **_scaled(plan.replicas, WHOLE_REQUESTS),
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
                "csplade.service.ray.grpc_context:add_document_service",
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


def write(plan: CapacityPlan, command: str) -> str:
    """Return the YAML of a plan; comments at its top say how to use it."""
    single = plan.shards == 1 and plan.replicas == 1 and plan.together
    use = (
        "csplade serve --config FILE"
        if single
        else "serve deploy FILE; deploy/ray/four-shards.yaml shows how to start Ray"
    )
    head = (
        f"# Made by: {command}\n"
        f"# Use: {use}\n"
        "# Build the index with: csplade index build --corpus CORPUS --out /data/index "
        f"--shards {plan.shards}\n"
    )
    return head + yaml.safe_dump(settings(plan) if single else ray_config(plan), sort_keys=False)
