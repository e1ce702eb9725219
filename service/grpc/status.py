"""The one map from errors to gRPC statuses; see the head of retrieval.proto for what each status
promises.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import grpc
from google.protobuf import any_pb2, duration_pb2

from ...core.errors import (
    DeadlineError,
    IncompatibleError,
    InputError,
    KeyMissingError,
    KeyWrongError,
    OverloadedError,
    UnavailableError,
)

CODES: dict[type[BaseException], grpc.StatusCode] = {
    InputError: grpc.StatusCode.INVALID_ARGUMENT,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    IncompatibleError: grpc.StatusCode.FAILED_PRECONDITION,
    KeyMissingError: grpc.StatusCode.UNAUTHENTICATED,
    KeyWrongError: grpc.StatusCode.PERMISSION_DENIED,
    asyncio.CancelledError: grpc.StatusCode.CANCELLED,
}


@dataclass(frozen=True)
class Status:
    """What the caller is told: a code, one line, and metadata that goes with it."""

    code: grpc.StatusCode
    message: str
    retry_after: float | None = None
    metadata: tuple[tuple[str, str | bytes], ...] = field(default=())


def status_of(error: BaseException, request_id: str) -> Status:
    """The status of an error; anything not in the map is INTERNAL and names only the request's id."""
    code = next((code for kind, code in CODES.items() if isinstance(error, kind)), None)
    if code is None:
        message = f"internal error; the server's log explains it under request id {request_id}"
        return Status(grpc.StatusCode.INTERNAL, message)
    message = " ".join(str(error).split()) or code.value[1]
    if not isinstance(error, OverloadedError):
        return Status(code, message)
    return Status(
        code, message, error.retry_after, _retry_metadata(code, message, error.retry_after)
    )


def _retry_metadata(
    code: grpc.StatusCode, message: str, seconds: float
) -> tuple[tuple[str, str | bytes], ...]:
    """Pushback for gRPC's own retries, and a ``google.rpc.Status`` with a ``google.rpc.RetryInfo``
    inside.

    The two messages are not among those that come with protobuf; their few fields are written here
    by hand.
    """
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(max(1, round(seconds * 1000)))
    retry_info = any_pb2.Any(
        type_url="type.googleapis.com/google.rpc.RetryInfo",
        value=_bytes_field(1, delay.SerializeToString()),
    )
    status = (
        bytes([0x08, code.value[0]])  # field 1, a small varint
        + _bytes_field(2, message.encode())
        + _bytes_field(3, retry_info.SerializeToString())
    )
    pushback = str(delay.ToMilliseconds())
    return ("grpc-retry-pushback-ms", pushback), ("grpc-status-details-bin", status)


def _bytes_field(number: int, value: bytes) -> bytes:
    length, size = bytearray(), len(value)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + value
