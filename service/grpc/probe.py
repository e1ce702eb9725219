"""Ask grpc.health.v1 whether a server is ready: ``python -m csplade.service.grpc.probe [ADDRESS]``.

The exit code is 0 if it is, else 1. For health checks of containers: only grpc is loaded. Without
an address it asks the socket that CSPLADE_SERVER__HEALTH_SOCKET names, which needs neither port nor
certificate, and where no server has made one, the port of CSPLADE_SERVER__PORT on this machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ...client.connection import Connection
from ...v1 import retrieval_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["RetrievalService"].full_name


def status(address: str, *, service: str = SERVICE, timeout: float = 3.0, **options: Any) -> str:
    """Return what a server says of a service.

    Args:
        address: ``host:port`` or ``unix:PATH``.
        service: Full name of the service; "" asks whether the server is alive.
        timeout: Seconds.
        options: TLS files, see :class:`csplade.client.connection.Connection`.

    Returns:
        ``SERVING``, ``NOT_SERVING``, or the code of the error that came instead.

    Raises:
        InputError: a file that cannot be read.
    """
    with Connection(address, **options).channel() as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
        except grpc.RpcError as error:
            code: str = error.code().name
            return code
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return name


def here() -> str:
    """Return the address of the server of this machine, by the environment."""
    socket = os.environ.get("CSPLADE_SERVER__HEALTH_SOCKET")
    if socket and Path(socket).is_socket():
        return f"unix:{socket}"
    return f"localhost:{os.environ.get('CSPLADE_SERVER__PORT', '50051')}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        "python -m csplade.service.grpc.probe", description="Ask whether a server is ready."
    )
    parser.add_argument("address", nargs="?", default=here(), help="host:port or unix:PATH")
    parser.add_argument("--service", default=SERVICE, help='"" asks whether the server is alive')
    parser.add_argument("--ca", type=Path, help="PEM file of the authorities to trust; implies TLS")
    parser.add_argument("--certificate", type=Path, help="PEM file for mutual TLS")
    parser.add_argument("--private-key", type=Path, help="PEM file of its key")
    parser.add_argument("--server-name", help="name in the server's certificate")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds")
    given = parser.parse_args()
    found = status(**vars(given))
    print(f"{given.address} {given.service or 'server'}: {found}")
    sys.exit(found != "SERVING")


if __name__ == "__main__":
    main()
