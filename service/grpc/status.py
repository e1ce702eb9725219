"""The map from errors to gRPC statuses; the head of retrieval.proto says what each one promises."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc
from google.protobuf import any_pb2, duration_pb2

from ...core.errors import CspladeError, OverloadedError
from ..admission import complaint

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True)
class Status:
    """What the caller is told.

    Attributes:
        code: Code of the status.
        message: One line.
        retry_after: Seconds to wait before the next attempt; None if that does not help.
        metadata: Trailing metadata that says the same to programs.
    """

    code: grpc.StatusCode
    message: str
    retry_after: float | None = None
    metadata: Metadata = field(default=())


def status_of(error: CspladeError) -> Status:
    """Return the status of an error that the caller may see."""
    code = grpc.StatusCode[error.code]
    message = complaint(error) or code.value[1]
    if not isinstance(error, OverloadedError):
        return Status(code, message)
    return Status(
        code, message, error.retry_after, _retry_metadata(code, message, error.retry_after)
    )


def _retry_metadata(code: grpc.StatusCode, message: str, seconds: float) -> Metadata:
    """Return pushback for gRPC's own retries, and a ``google.rpc.Status`` with a ``RetryInfo``.

    The two messages do not come with protobuf; their few fields are encoded here.
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
