"""The ASGI application: routes of the rpcs, health, the OpenAPI document, and the explorer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ...core.errors import InputError, UnavailableError
from .. import names
from ..admission import Admission
from ..documents import Documents
from ..retrieval import Retrieval
from ..settings import Http, Settings
from .errors import error_response
from .transcode import DOCUMENTS, RETRIEVAL, Method, Rpc, Transcoder

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
CODES = {404: "not_found", 405: "unimplemented"}  # of paths and methods that are not there
EXPOSED_HEADERS = ("x-request-id", "retry-after")


def build_app(
    settings: Settings,
    retrieval: Retrieval,
    documents: Documents,
    admission: Admission,
    is_ready: Callable[[], bool],
    explorer: Callable[[Transcoder], Sequence[BaseRoute]] | None = None,
) -> ASGIApp:
    """Return the application.

    Args:
        settings: All settings.
        retrieval: Answers the messages of RetrievalService.
        documents: Answers those of DocumentService.
        admission: Admits the requests.
        is_ready: Whether load balancers may send requests here.
        explorer: Makes the explorer's routes; None for none.
    """
    transcoder = Transcoder(admission, settings)
    searches, upserts = transcoder.search_stream(retrieval), transcoder.upsert_stream(documents)
    routes: list[BaseRoute] = [
        *_unary(transcoder, names.RETRIEVAL, RETRIEVAL, retrieval),
        *_unary(transcoder, names.DOCUMENTS, DOCUMENTS, documents),
        Route("/v1/search/stream", _Application(searches), methods=["POST"]),
        Route("/v1/documents/upsert/stream", _Application(upserts), methods=["POST"]),
        Route("/healthz", _healthz),
        Route("/readyz", _readyz(is_ready)),
        Route("/openapi.json", _openapi),
    ]
    if explorer is not None:
        routes += explorer(transcoder)
    return Starlette(
        routes=routes,
        middleware=_middleware(settings.http),
        exception_handlers={HTTPException: _http_error},  # type: ignore[dict-item]
    )


def _unary(
    transcoder: Transcoder, name: str, rpcs: Sequence[Rpc], service: Retrieval | Documents
) -> Iterator[BaseRoute]:
    """Yield the routes of a service's unary rpcs, of the Connect protocol and short ones."""
    for rpc in rpcs:
        method = rpc.method(service)
        endpoint = transcoder.unary(rpc, _always(method))
        methods = ["GET", "POST"] if rpc.name == "Info" else ["POST"]
        yield Route(f"/{name}/{rpc.name}", endpoint, methods=["POST"])
        yield Route(f"/v1/{rpc.path}", endpoint, methods=methods)


def _always(method: Method) -> Callable[[Request], Method]:
    return lambda _: method


def _middleware(settings: Http) -> list[Middleware]:
    found = []
    if (hosts := allowed_hosts(settings)) is not None:
        found.append(Middleware(_HostCheck, hosts))
    if settings.cors_origins:
        found.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=EXPOSED_HEADERS,
            )
        )
    return found


def allowed_hosts(settings: Http) -> Collection[str] | None:
    """Return the host names that requests may name, None for all."""
    if settings.hosts is not None:
        return settings.hosts
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return LOOPBACK if host in LOOPBACK else None


class _HostCheck:
    """Rejects requests that name another host.

    A page of another site can point its own name at this machine (DNS rebinding), and would then be
    of the same origin as the service.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = next((value for name, value in scope["headers"] if name == b"host"), b"")
        name, colon, port = given.decode("latin-1").lower().rpartition(":")
        host = name if colon and port.isdigit() else given.decode("latin-1").lower()
        if host in self._hosts or scope["path"] in ("/healthz", "/readyz"):
            return await self._app(scope, receive, send)
        problem = InputError(f"host: {host[:60]!r} is not allowed; http.hosts lists those that are")
        await error_response(problem)(scope, receive, send)


class _Application:
    """An ASGI application in a class of its own, which Starlette tells from an endpoint."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


async def _healthz(_: Request) -> Response:
    return JSONResponse({"status": "alive"})


def _readyz(is_ready: Callable[[], bool]) -> Callable[[Request], Response]:
    async def readyz(_: Request) -> Response:
        if is_ready():
            return JSONResponse({"status": "ready"})
        return error_response(UnavailableError("the server is loading or draining; retry later"))

    return readyz  # type: ignore[return-value]


async def _openapi(_: Request) -> Response:
    return Response(_openapi_document(), media_type="application/json")


@cache
def _openapi_document() -> bytes:
    return files(__package__).joinpath("openapi.json").read_bytes()


async def _http_error(_: Request, error: HTTPException) -> Response:
    code = CODES.get(error.status_code, "invalid_argument")
    body = {"code": code, "message": error.detail}
    return JSONResponse(body, error.status_code, error.headers)
