"""The service under load: its address, its key, and what it reports about itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc

from ..client.connection import Connection
from ..core.errors import InputError, UnavailableError
from ..v1 import retrieval_pb2 as pb
from ..v1 import retrieval_pb2_grpc as rpc

TIMEOUT_SECONDS = 60.0  # of a call outside the load


@dataclass(frozen=True)
class Target:
    """A server.

    Attributes:
        address: ``host:port``.
        key: API key; "" for none.
        ca: PEM file of the authority to trust; None for no TLS.
        application: name of the application, if several run on one Ray cluster; "" for none.
    """

    address: str
    key: str = ""
    ca: Path | None = None
    application: str = ""

    def __post_init__(self) -> None:
        host, colon, port = self.address.rpartition(":")
        if not (host and colon and port.isdigit()):
            raise InputError(f"target: {self.address!r} is not an address; must be HOST:PORT")

    @cached_property
    def _connection(self) -> Connection:
        return Connection(
            self.address,
            key=self.key or None,
            ca=self.ca,
            application=self.application or None,
            timeout=TIMEOUT_SECONDS,
        )

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of every request."""
        return dict(self._connection.metadata)

    @cached_property
    def info(self) -> pb.InfoResponse:
        """What the server serves; raises UnavailableError if it does not answer."""
        info: pb.InfoResponse = self.call("Info", pb.InfoRequest())
        return info

    def call(self, method: str, request: Any) -> Any:
        """Call a method, outside the load.

        Raises:
            UnavailableError: the server does not answer, or answers with an error.
        """
        connection = self._connection
        with connection.channel() as channel:
            stub = rpc.RetrievalServiceStub(channel)
            try:
                return getattr(stub, method)(
                    request, timeout=connection.timeout(None), metadata=connection.metadata
                )
            except grpc.RpcError as error:
                raise UnavailableError(
                    f"target {self.address}: {method}: {connection.error(error)}"
                ) from None
