"""The explorer: its static files, the uploads that it makes, the services that it compares with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ...core.errors import CspladeError
from ..admission import Admission
from .body import LINES, body_kind, read_body
from .errors import error_response
from .request import context_of
from .services import OtherServices
from .temporary import BYTES, DOCUMENTS, LIFE_SECONDS, TemporaryCollections
from .transcode import CLIENT_LEFT, RETRIEVAL, Method, Rpc, Transcoder

TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
# Scripts, styles and requests of this server alone: a document that gets markup into the page can
# neither run nor send anything.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


def explorer_routes(
    transcoder: Transcoder,
    admission: Admission,
    services: OtherServices,
    collections: TemporaryCollections | None,
    grpc_address: Callable[[], str],
) -> list[BaseRoute]:
    """Return the routes below ``/explore``.

    Args:
        transcoder: Makes the endpoints of uploaded collections and of other services.
        admission: Admits uploads.
        services: Other services, by name.
        collections: Holds uploads; None where there are none.
        grpc_address: Returns ``host:port`` of the gRPC server.
    """
    limits = {"documents": DOCUMENTS, "bytes": BYTES, "seconds": LIFE_SECONDS}

    async def config(_: Request) -> Response:
        return JSONResponse(
            {
                "grpc": grpc_address(),
                "upload": limits if collections is not None else None,
                "services": services.names,
            }
        )

    routes: list[BaseRoute] = [
        Route("/explore", _file("index.html")),
        Route("/explore/config.json", config),
    ]
    for rpc in RETRIEVAL:
        endpoint = transcoder.unary(rpc, _of_service(services, rpc))
        routes.append(_route(f"services/{{name}}/{rpc.path}", endpoint))
    if collections is not None:
        routes.append(_route("collections", _upload(admission, collections)))
        for rpc in RETRIEVAL:
            endpoint = transcoder.unary(rpc, _of_collection(collections, rpc))
            routes.append(_route(f"collections/{{name}}/{rpc.path}", endpoint))
    routes += [
        Route(f"/explore/{one.name}", _file(one.name))
        for one in files(__package__).joinpath("../web").iterdir()
        if one.name.rpartition(".")[2] in TYPES
    ]
    return routes


def _route(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> BaseRoute:
    return Route(f"/explore/{path}", endpoint, methods=["POST"])


def _of_service(services: OtherServices, rpc: Rpc) -> Callable[[Request], Method]:
    return lambda request: services.method(request.path_params["name"], rpc)


def _of_collection(collections: TemporaryCollections, rpc: Rpc) -> Callable[[Request], Method]:
    return lambda request: rpc.method(collections.find(request.path_params["name"]))


def _upload(
    admission: Admission, collections: TemporaryCollections
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint that indexes an upload."""

    async def upload(request: Request) -> Response:
        context, problem = context_of("Upload", request)
        headers = {"x-request-id": context.request_id}
        try:
            with admission.request(context) as deadline:
                if problem is not None:
                    raise problem
                body_kind(request, LINES)
                async with deadline.enforced():
                    lines = await read_body(request, BYTES, "the explorer")
                name, documents = await collections.create(lines)
        except CspladeError as error:
            return error_response(error, headers)
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)
        made = {"collection": name, "documents": documents, "seconds": LIFE_SECONDS}
        return JSONResponse(made, headers=headers)

    return upload


def _file(name: str) -> Callable[[Request], Response]:
    async def serve(_: Request) -> Response:
        headers = {**HEADERS, "content-type": TYPES[name.rpartition(".")[2]]}
        return Response(_read(name), headers=headers)

    return serve  # type: ignore[return-value]


@cache
def _read(name: str) -> bytes:
    return files(__package__).joinpath("../web", name).read_bytes()
