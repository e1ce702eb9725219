"""The gRPC side of Ray Serve: our services added to its servers, its requests made to look like
ordinary ones.

Ray hands a deployment the request and a copy of its metadata, but neither the caller's deadline nor
the context. The handlers added here write the seconds that are left into the metadata before Ray
copies it. What a handler says about the end of the call (code, message, trailing metadata) Ray
sends only when the handler returns normally: so :class:`RayContext` notes it and the handler
returns an empty message.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from ...core.errors import CspladeError
from ...v1 import documents_pb2_grpc as document_rpc
from ...v1 import retrieval_pb2_grpc as rpc
from ..admission import Admission
from ..grpc.interceptor import own_method, rejection, tolerant

REMAINING = "csplade-remaining"  # metadata: seconds until the caller's deadline
SERVICER_FUNCTIONS = [
    f"{__name__}:add_{name}_service" for name in ("retrieval", "document", "health")
]

# Ray's own gRPC servers in this process. Behind HAProxy that is the one of the replica that lives
# here.
_servers: weakref.WeakSet[Any] = weakref.WeakSet()


def add_retrieval_service(servicer: Any, server: Any) -> None:
    """Add RetrievalService to one of Ray's gRPC servers; named in ``grpc_servicer_functions``."""
    rpc.add_RetrievalServiceServicer_to_server(servicer, _Adder(server))


def add_document_service(servicer: Any, server: Any) -> None:
    """Add DocumentService likewise."""
    document_rpc.add_DocumentServiceServicer_to_server(servicer, _Adder(server))


def add_health_service(servicer: Any, server: Any) -> None:
    """Add grpc.health.v1.Health likewise; its List is not implemented, as in the single process."""
    health_pb2_grpc.add_HealthServicer_to_server(servicer, _Adder(server, leave_out="List"))


def is_draining() -> bool:
    """Whether Ray is about to end the replica in this process.

    Ray tells a replica nothing of that before its requests have ended, and streams may never end by
    themselves. Only known where the replica itself serves gRPC (behind HAProxy); elsewhere always
    False.
    """
    replicas = (getattr(server.service_handler_factory, "__self__", None) for server in _servers)
    return any(getattr(replica, "_shutting_down", False) for replica in replicas)


_admission: Admission | None = None


def admit_with(admission: Admission) -> None:
    """Check calls of our services by the admission of the replica in this process.

    Where the replica itself serves gRPC, a call is then rejected before its message is read.
    """
    global _admission
    _admission = admission


class _Adder:
    """Stands in for one of Ray's servers while generated code adds a service to it."""

    def __init__(self, server: Any, leave_out: str = "") -> None:
        self._server, self._leave_out = server, leave_out
        _servers.add(server)

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        found = handlers[0]._method_handlers.items()
        kept = {path: handler for path, handler in found if path.split("/")[-1] != self._leave_out}
        self._server.add_generic_rpc_handlers((_Handlers(kept),))

    def add_registered_method_handlers(
        self, service: str, handlers: dict[str, grpc.RpcMethodHandler]
    ) -> None:
        """Ignore these: gRPC would ask them before the generic handlers."""


class _Handlers(grpc.GenericRpcHandler):
    """The handlers of a service; each call's metadata get the seconds until its deadline.

    Ray reads and replaces ``_method_handlers``: path -> handler.
    """

    def __init__(self, handlers: dict[str, grpc.RpcMethodHandler]) -> None:
        self._method_handlers = handlers

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        handler = tolerant(self._method_handlers.get(details.method))
        if handler is None:
            return None
        method = own_method(details)
        if _admission is not None and method is not None:
            try:
                _admission.check(method, dict(details.invocation_metadata or ()))
            except CspladeError:
                return rejection(_admission, method)
        streams = handler.response_streaming
        kind = f"{_side(handler.request_streaming)}_{_side(streams)}"
        behaviour = getattr(handler, kind)
        return handler._replace(**{kind: (_timed_stream if streams else _timed)(behaviour)})


def _side(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def _timed(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> Any:
        return await behaviour(request, _Timed(context))

    return call


def _timed_stream(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> Any:
        async for response in behaviour(request, _Timed(context)):
            yield response

    return call


class _Timed:
    """A call's context whose metadata hold the seconds until its deadline."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        metadata = tuple(
            pair for pair in self._context.invocation_metadata() or () if pair[0] != REMAINING
        )
        remaining = self._context.time_remaining()
        return metadata if remaining is None else (*metadata, (REMAINING, repr(remaining)))


class AbortedError(Exception):
    """The call has ended: its status is in its context."""


class RayContext:
    """The part of ``grpc.aio.ServicerContext`` that the servicer uses, on Ray's context.

    Args:
        context: Ray's, of type RayServegRPCContext.
        incoming: messages of a stream.
    """

    def __init__(self, context: Any, incoming: Any = None) -> None:
        self._context, self._incoming = context, incoming
        self._outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self._room = asyncio.Semaphore(1)
        self._metadata = dict(context.invocation_metadata())
        remaining = self._metadata.pop(REMAINING, None)
        loop = asyncio.get_running_loop()
        self._deadline = None if remaining is None else loop.time() + float(remaining)

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the metadata that the caller sent."""
        return tuple(self._metadata.items())

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None without one."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    def peer(self) -> str:
        """Return the address of the caller; behind HAProxy, that of HAProxy."""
        return str(self._context.peer())

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Set the metadata that end the call."""
        self._context.set_trailing_metadata(list(metadata))

    async def abort(
        self, code: grpc.StatusCode, details: str, trailing: Sequence[tuple[str, Any]]
    ) -> None:
        """Set the status of the call and raise AbortedError."""
        self._context.set_code(code)
        self._context.set_details(details)
        self._context.set_trailing_metadata(list(trailing))
        raise AbortedError(details)

    async def read(self) -> Any:
        """Return the next message of the stream, ``grpc.aio.EOF`` after the last."""
        try:
            return await anext(self._incoming)
        except StopAsyncIteration:
            if self._incoming.is_cancelled():
                raise asyncio.CancelledError from None
            return grpc.aio.EOF

    async def write(self, message: Any) -> None:
        """Send a message of the stream, once the one before has been sent."""
        await self._room.acquire()
        self._outgoing.put_nowait(message)

    def finish(self) -> None:
        """End the stream of messages to send."""
        self._outgoing.put_nowait(None)

    async def next(self) -> Any:
        """For Ray: the next message to send, None after the last; asking for it says that the one
        before is sent.
        """
        message = await self._outgoing.get()
        self._room.release()
        return message
