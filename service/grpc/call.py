"""What the rpcs of every service share: admit a call, end it with its status, read its stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from ...core.errors import CspladeError, InputError
from ...engine.deadline import Deadline
from ..admission import Admission, RequestContext
from .interceptor import Malformed
from .status import status_of

M = TypeVar("M")
R = TypeVar("R")


async def answered(
    admission: Admission,
    method: str,
    answer: Callable[[M, Deadline], Awaitable[R]],
    message: M,
    context: grpc.aio.ServicerContext,
) -> R:
    """Admit a call and answer its message, or end it with the status of the error.

    Args:
        admission: Admits it.
        method: Name of the rpc.
        answer: Answers the message.
        message: The request; None of a stream.
        context: Of the call.
    """
    metadata = dict(context.invocation_metadata() or ())
    request = RequestContext.create(method, metadata, context.peer(), context.time_remaining())
    trailing = ("x-request-id", request.request_id)
    context.set_trailing_metadata((trailing,))
    try:
        with admission.request(request) as deadline:
            _check_parsed(message)
            return await answer(message, deadline)
    except CspladeError as error:
        status = status_of(error)
        await context.abort(status.code, status.message, (trailing, *status.metadata))
        raise  # not reached: abort raises


async def read_message(context: grpc.aio.ServicerContext) -> Any:
    """Return the next message of a stream, None after the last.

    Raises:
        InputError: it cannot be parsed.
    """
    item = await context.read()
    _check_parsed(item)
    return None if item is grpc.aio.EOF else item


def _check_parsed(message: Any) -> None:
    if isinstance(message, Malformed):
        raise InputError("request: not a valid protobuf message; send one of csplade.v1")
