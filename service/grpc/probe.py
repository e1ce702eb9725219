"""``python -m csplade.service.grpc.probe``: ask grpc.health.v1 whether a server is ready; exit code
0 if it is, else 1.

For health checks of containers: nothing but grpc is loaded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ...v1 import retrieval_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["RetrievalService"].full_name


def status(
    address: str, *, service: str = SERVICE, ca: Path | None = None, timeout: float = 3.0
) -> str:
    """What a server says of a service.

    Args:
        address: ``host:port``.
        service: full name of the service; "" asks whether the server is alive.
        ca: PEM file of the authorities to trust, if the server speaks TLS.
        timeout: seconds.

    Returns:
        ``SERVING``, ``NOT_SERVING``, or the code of the error that came instead.
    """
    if ca is None:
        channel = grpc.insecure_channel(address)
    else:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca.read_bytes()))
    with channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
        except grpc.RpcError as error:
            return error.code().name
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m csplade.service.grpc.probe", description="Ask whether a server is ready."
    )
    parser.add_argument("address", nargs="?", default="localhost:50051", help="host:port")
    parser.add_argument("--service", default=SERVICE, help='"" asks whether the server is alive')
    parser.add_argument(
        "--ca", type=Path, help="PEM file of the authorities to trust, if the server speaks TLS"
    )
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds")
    given = parser.parse_args()
    found = status(given.address, service=given.service, ca=given.ca, timeout=given.timeout)
    print(f"{given.address} {given.service or 'server'}: {found}")
    sys.exit(found != "SERVING")


if __name__ == "__main__":
    main()
