"""The service under load: its address, its key, and what it reports about itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc

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

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of every request."""
        named = {"application": self.application} if self.application else {}
        return named | ({"authorization": f"Bearer {self.key}"} if self.key else {})

    @cached_property
    def info(self) -> pb.InfoResponse:
        """What the server serves; raises UnavailableError if it does not answer."""
        return self.call("Info", pb.InfoRequest())

    def call(self, method: str, request: Any) -> Any:
        """Call a method, outside the load.

        Raises:
            UnavailableError: the server does not answer, or answers with an error.
        """
        if self.ca is None:
            channel = grpc.insecure_channel(self.address)
        else:
            channel = grpc.secure_channel(
                self.address, grpc.ssl_channel_credentials(self.ca.read_bytes())
            )
        with channel:
            stub = rpc.RetrievalServiceStub(channel)
            try:
                return getattr(stub, method)(
                    request, timeout=TIMEOUT_SECONDS, metadata=tuple(self.metadata.items())
                )
            except grpc.RpcError as error:
                raise UnavailableError(
                    f"target {self.address}: {method}: {error.code().name}: {error.details()}"
                ) from None
