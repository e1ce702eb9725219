"""The map from errors to HTTP statuses and JSON bodies; the statuses are those of Connect."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from starlette.responses import Response

from ...core.errors import CspladeError, InputError, OverloadedError

STATUSES = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "UNAUTHENTICATED": 401,
}


class BodyError(InputError):
    """A body that is not read: 413 for one that is too large, 415 for one in another format."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: CspladeError) -> int:
    """Return the HTTP status of an error that the caller may see."""
    return error.status if isinstance(error, BodyError) else STATUSES[error.code]


def error_body(error: CspladeError) -> dict[str, str | float]:
    """Return an error as the JSON object that callers get."""
    body: dict[str, str | float] = {
        "code": error.code.lower(),
        "message": " ".join(str(error).split()) or error.code.lower(),
    }
    if isinstance(error, OverloadedError):
        body["retry_after"] = error.retry_after
    return body


def error_response(error: CspladeError, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response to a request that failed."""
    told = dict(headers or {})
    if isinstance(error, OverloadedError):
        told["retry-after"] = str(max(1, math.ceil(error.retry_after)))  # whole seconds: RFC 9110
    status = status_of(error)
    if status == 401:
        told["www-authenticate"] = "Bearer"
    return Response(json.dumps(error_body(error)), status, told, "application/json")
