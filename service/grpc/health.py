"""grpc.health.v1: how each service is. A caller that does not read its Watch delays nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Answers Check and Watch from a table of statuses. Use it on one event loop."""

    def __init__(self) -> None:
        self._statuses: dict[str, HealthCheckResponse.ServingStatus] = {}
        self._changed = asyncio.Event()

    def set(self, service: str, status: HealthCheckResponse.ServingStatus) -> None:
        """Set the status of a service; "" stands for the server itself."""
        self._statuses[service] = status
        self._changed.set()
        self._changed = asyncio.Event()

    def is_serving(self, service: str) -> bool:
        """Whether the status of a service is SERVING."""
        return bool(self._statuses.get(service) == SERVING)

    async def Check(
        self, request: HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> HealthCheckResponse:
        """Return the status of a service now; NOT_FOUND for one that is not known."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "service: unknown")
        return HealthCheckResponse(status=status)

    async def Watch(
        self, request: HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[HealthCheckResponse]:
        """Yield the status of a service, now and at each change."""
        sent = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, SERVICE_UNKNOWN)
            if status != sent:
                yield HealthCheckResponse(status=status)
                sent = status
            else:
                await changed.wait()
