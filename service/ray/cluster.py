"""Run Ray and the application on this machine: ``csplade serve --ray``.

Ray reads its environment when it is imported, and all of its processes inherit it, so nothing here
imports Ray before :func:`prepare` has set the environment.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ...client.connection import is_loopback
from ...core.errors import InputError, UnavailableError
from ...core.machine import cores
from ...v1 import retrieval_pb2 as pb
from ..settings import Http, MetricsEndpoint, Server, Settings
from . import loopback, stale

log = logging.getLogger(__name__)

APPLICATION = "csplade"
# Replicas serve gRPC themselves, behind HAProxy, on the event loop that takes the requests.
NEEDED = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
}
STOP_FILE = "CSPLADE_RAY_STOP_FILE"
"""Environment variable of the file whose existence tells the replicas that the cluster stops."""

LAME_DUCK_SECONDS = 2.0  # in which replicas see that file, reject new requests and finish others
OBJECT_STORE_BYTES = 100 * 2**20  # nothing of a request goes through it
START_SECONDS = 300.0
PORTS = 200  # for the replicas of one cluster, of each kind


def prepare(scratch: Path) -> list[str]:
    """Set the environment of Ray Serve: its fast paths, and files and ports of this cluster alone.

    Args:
        scratch: An empty directory for HAProxy's files.

    Returns:
        Names of needed variables that the user has set to another value.
    """
    for name, value in NEEDED.items():
        os.environ.setdefault(name, value)
    os.environ |= {
        STOP_FILE: str(scratch / "stopping"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(scratch / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(scratch / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(scratch),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(scratch / "server-state"),
    }
    defaults = {
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, cores())),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "30",
        # For how long a replaced replica stays reachable; the local HAProxy learns of it at once.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        # A proxy starts slowly on a busy machine; Ray would kill it after five seconds and give up.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # Ray notices a dead HAProxy after three checks.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # A header that does not fit ends the whole connection, and its neighbours' streams with it.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    # Ray binds these ports with SO_REUSEPORT and begins at the same number everywhere: two clusters
    # on one machine would share them, and answer each other's requests.
    ports = free_ports(2 * PORTS)
    for kind, first in (("GRPC", ports), ("HTTP", ports + PORTS)):
        defaults[f"RAY_SERVE_DIRECT_INGRESS_MIN_{kind}_PORT"] = str(first)
        defaults[f"RAY_SERVE_DIRECT_INGRESS_MAX_{kind}_PORT"] = str(first + PORTS - 1)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    return [name for name, value in NEEDED.items() if os.environ[name] != value]


@contextmanager
def cluster(
    server: Server,
    metrics: MetricsEndpoint | None = None,
    http: Http | None = None,
    **ray_options: Any,
) -> Iterator[str]:
    """Start Ray with Serve, and stop it at the end of the block.

    Args:
        server: Where to listen.
        metrics: Where Ray's agent on this machine serves ``/metrics``; by default at any free port.
            If its host is not a loopback address, all of Ray's ports are open to the network.
        http: Where to listen for HTTP, if it is enabled.
        ray_options: Options of ``ray.init`` that replace those chosen here.

    Yields:
        ``host:port`` of gRPC.

    Raises:
        InputError: Ray is not installed.
        UnavailableError: the port is taken, or Ray does not start.
    """
    with ExitStack() as stack:
        stale.end_stale_clusters(STOP_FILE)
        scratch = Path(tempfile.mkdtemp(prefix=stale.SCRATCH_PREFIX))
        stale.mark(scratch)
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        off = prepare(scratch)
        if off:
            log.warning("requests take longer without %s=1", "=1 and ".join(off))
        port = server.port or free_port()
        _check_free(server.host, port, "server")
        try:
            import ray
            from ray import serve
        except ModuleNotFoundError as error:
            raise InputError(f"{error.name} is not installed: pip install 'csplade[ray]'") from None

        from .grpc_context import SERVICER_FUNCTIONS

        chosen: dict[str, Any] = {
            "address": "local",
            # Counted, not reserved: all replicas fit, twice as many while they are replaced.
            "num_cpus": 64,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "_temp_dir": str(scratch / "ray"),
            "_metrics_export_port": free_port(),
        }
        if metrics is None or not metrics.enabled or is_loopback(f"{metrics.host}:{metrics.port}"):
            loopback.prepare()
            chosen["runtime_env"] = {"worker_process_setup_hook": loopback.HOOK}
        if metrics is not None and metrics.enabled and metrics.port:
            _check_free(metrics.host, metrics.port, "metrics")
            chosen["_metrics_export_port"] = metrics.port
        stack.callback(_shut_ray_down)
        where: dict[str, Any] = {"host": server.host, "port": free_port()}
        if http is not None and http.enabled:
            where = {"host": http.host, "port": http.port or where["port"]}
            _check_free(http.host, where["port"], "http")
            log.info("HTTP", extra=where)
        try:
            ray.init(**chosen | ray_options)
            stack.callback(serve.shutdown)
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
            serve.start(
                proxy_location="HeadOnly",
                http_options=where,
                grpc_options={
                    "port": port,
                    "grpc_servicer_functions": SERVICER_FUNCTIONS,
                    "enable_reflection": server.reflection,
                },
            )
        except Exception as error:  # Ray raises plain exceptions here
            raise UnavailableError(f"Ray does not start: {' '.join(str(error).split())}") from error
        yield f"{server.host}:{port}"


def run(
    settings: Settings,
    address: str,
    *,
    name: str = APPLICATION,
    apart: bool | None = None,
    version: str = "1",
) -> None:
    """Run an application on the cluster and wait until it is ready.

    Args:
        settings: All settings.
        address: ``host:port`` of the cluster's gRPC.
        name: Name of the application.
        apart: See :class:`~csplade.service.ray.app.RayArguments`.
        version: See there.

    Raises:
        InputError, CorruptError: see :func:`~csplade.service.ray.app.build`.
        UnavailableError: the application does not come up.
    """
    from ray import serve

    from .app import RayArguments, build

    host, _, port = address.rpartition(":")
    told = settings.model_dump(mode="json")
    told["server"] |= {"host": host, "port": int(port)}  # which replicas show to people
    arguments = RayArguments(settings=told, apart=apart, version=version)
    try:
        serve.run(
            build(arguments), name=name, route_prefix="/" if name == APPLICATION else f"/{name}"
        )
    except RuntimeError as error:
        raise UnavailableError(f"Ray cannot run the application: {error}") from None
    wait_until_serving(address, name, START_SECONDS)


def serve_on_ray(
    settings: Settings, on_ready: Callable[[str], None], *, apart: bool | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and stop Ray.

    Args:
        settings: All settings.
        on_ready: Called with ``host:port`` once everything is loaded.
        apart: As for :func:`run`.
    """
    asked: list[int] = []

    def stop(number: int, _: Any) -> None:
        asked.append(number)
        if len(asked) == 1:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    output = sys.stdout
    try:
        # Ray writes to the driver's standard output, on which callers read the address.
        with (
            redirect_stdout(sys.stderr),
            cluster(settings.server, settings.metrics, settings.http) as address,
        ):
            run(settings, address, apart=apart)
            log.info("serving on Ray", extra={"address": address})
            for number in before:  # ray.init set handlers that end the process at once
                signal.signal(number, stop)
            with redirect_stdout(output):
                on_ready(address)
            try:
                while True:
                    signal.pause()
            except KeyboardInterrupt:
                log.info("draining")
                Path(os.environ[STOP_FILE]).touch()
                time.sleep(LAME_DUCK_SECONDS)
        log.info("stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_stopping() -> bool:
    """Whether the cluster of this process was told to stop; only ``csplade serve --ray`` is."""
    path = os.environ.get(STOP_FILE)
    return path is not None and Path(path).exists()


def wait_until_serving(address: str, application: str, seconds: float) -> None:
    """Poll grpc.health.v1 until the service is ready.

    Raises:
        UnavailableError: it is not ready in time.
    """
    name = pb.DESCRIPTOR.services_by_name["RetrievalService"].full_name
    request = health_pb2.HealthCheckRequest(service=name)
    end, last = time.monotonic() + seconds, "nothing answers"
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < end:
            try:
                status = stub.Check(
                    request, timeout=5, metadata=(("application", application),)
                ).status
                if status == health_pb2.HealthCheckResponse.SERVING:
                    return
                last = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
            except grpc.RpcError as error:
                last = error.code().name
            time.sleep(0.1)
    raise UnavailableError(f"{address} is not ready after {seconds:.0f} s: {last}")


def free_port() -> int:
    """Return a TCP port of this machine that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_ports(count: int) -> int:
    """Return the first of so many consecutive TCP ports that were free a moment ago, at random."""
    while True:
        # Below the ports that outgoing connections take.
        first = random.randrange(10_000, 32_000 - count)
        with ExitStack() as probes, suppress(OSError):
            for port in range(first, first + count):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


def _check_free(host: str, port: int, section: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UnavailableError(
                f"cannot listen at {host}:{port} ({section}.host, {section}.port): {error.strerror}"
            ) from None


def _shut_ray_down() -> None:
    """Shut Ray down while no thread records metrics or collects references to Ray's objects.

    Either would end the process: Ray may not be used while it shuts down.
    """
    import ray

    from .metrics import exporting

    with exporting:
        gc.collect()
        gc.disable()
        try:
            ray.shutdown()
        finally:
            gc.enable()
