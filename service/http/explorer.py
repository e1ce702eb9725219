"""The explorer: its static files, and the uploads that only it makes."""

from __future__ import annotations

from collections.abc import Callable
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
from .temporary import BYTES, DOCUMENTS, LIFE_SECONDS, TemporaryCollections
from .transcode import CLIENT_LEFT, UNARY, Transcoder

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
    collections: TemporaryCollections,
    admission: Admission,
    grpc_address: Callable[[], str],
) -> list[BaseRoute]:
    """Return the routes below ``/explore``.

    Args:
        transcoder: Makes the endpoints of uploaded collections.
        collections: Holds them.
        admission: Admits uploads.
        grpc_address: Returns ``host:port`` of the gRPC server.
    """

    async def config(_: Request) -> Response:
        limits = {"documents": DOCUMENTS, "bytes": BYTES, "seconds": LIFE_SECONDS}
        return JSONResponse({"grpc": grpc_address(), "upload": limits})

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

    routes: list[BaseRoute] = [
        Route("/explore", _file("index.html")),
        Route("/explore/config.json", config),
        Route("/explore/collections", upload, methods=["POST"]),
    ]
    for rpc in UNARY:
        endpoint = transcoder.unary(
            rpc, lambda request: collections.find(request.path_params["name"])
        )
        path = f"/explore/collections/{{name}}/{rpc.path}"
        routes.append(Route(path, endpoint, methods=["POST"]))
    routes += [
        Route(f"/explore/{one.name}", _file(one.name))
        for one in files(__package__).joinpath("../web").iterdir()
        if one.name.rpartition(".")[2] in TYPES
    ]
    return routes


def _file(name: str) -> Callable[[Request], Response]:
    async def serve(_: Request) -> Response:
        headers = {**HEADERS, "content-type": TYPES[name.rpartition(".")[2]]}
        return Response(_read(name), headers=headers)

    return serve  # type: ignore[return-value]


@cache
def _read(name: str) -> bytes:
    return files(__package__).joinpath("../web", name).read_bytes()
