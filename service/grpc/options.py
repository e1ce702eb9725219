"""Bounds of the gRPC server that gRPC itself keeps, before Python sees a call."""

from __future__ import annotations

import logging
import resource

from ..settings import Settings

log = logging.getLogger(__name__)

# gRPC's own bound on calls that Python has not yet seen (1,000, hard 3,000) cancels them without a
# message. Connections times streams bound them instead: a connection too many is UNAVAILABLE at
# once, and a stream too many waits in its client.
PENDING_CALLS = 2**31 - 1
OTHER_FILES = 256  # that a server has open beside its connections


def server_options(settings: Settings) -> list[tuple[str, int]]:
    """Return the options of the server."""
    server, limits = settings.server, settings.limits
    return [
        ("grpc.max_receive_message_length", server.receive_bytes),
        ("grpc.max_send_message_length", server.send_bytes),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.max_concurrent_streams", limits.connection_streams),
        ("grpc.server.max_pending_requests", PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS),
        # Callers may ping idle streams as often as they like: 0 strikes means no limit.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_time_ms", round(server.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", round(server.keepalive_timeout_seconds * 1000)),
        *(
            [("grpc.max_connection_age_ms", round(server.connection_age_seconds * 1000))]
            if server.connection_age_seconds
            else []
        ),
        ("grpc.so_reuseport", 0),
    ]


def allow_connections(count: int) -> None:
    """Let this process open a file for each connection; say so if the system does not let it."""
    needed = count + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < needed:
        log.warning(
            "limits.connections: %d need %d open files, this process may open %d; raise the limit "
            "of the system (ulimit -n), or allow fewer connections",
            count,
            needed,
            most,
        )
