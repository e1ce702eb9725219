"""Keep the ports of a cluster of one machine on its loopback interface.

Ray's own servers follow the address of the node. Serve's do not: they listen on all interfaces, for
proxies on other nodes. Ray calls :func:`bind` in every process of the cluster before anything else.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

LOOPBACK = "127.0.0.1"
HOOK = f"{__name__}.bind"
"""Value of ``worker_process_setup_hook``."""


def prepare() -> None:
    """Let the loopback address be that of the node which this process starts.

    Ray does so where it must not open ports, on macOS and Windows. The variable tells the node's
    processes; this one has read it when it imported Ray.
    """
    from ray._private import ray_constants

    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def bind() -> None:
    """Let the servers of Serve in this process listen on the loopback interface."""
    from ray._common import tls_utils

    _keep_local(tls_utils, "add_port_to_grpc_server")  # calls between replicas
    # Only now: Serve takes that function by name when it is imported.
    from ray.serve._private import default_impl, haproxy_templates

    _keep_local(default_impl, "add_grpc_address")  # calls from HAProxy
    template = haproxy_templates.HAPROXY_CONFIG_TEMPLATE
    for port in ("metrics_port", "stats_port"):
        for wild in (":", "*:"):
            template = template.replace(
                f"bind {wild}{{{{ config.{port} }}}}", f"bind {LOOPBACK}:{{{{ config.{port} }}}}"
            )
    haproxy_templates.HAPROXY_CONFIG_TEMPLATE = template


def _keep_local(module: ModuleType, name: str) -> None:
    """Let a function that adds an address to a server add the loopback one of that port."""
    add = getattr(module, name)

    def add_local(server: Any, address: str) -> Any:
        return add(server, f"{LOOPBACK}:{address.rpartition(':')[2]}")

    setattr(module, name, add_local)
