"""``csplade explore``: an index in the browser."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer


def explore(
    index: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the index.")],
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings; deploy/csplade.yaml lists them all.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Encoder: embedded or a directory; default: the one of the index."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port of the page; 0 takes a free one. Default 8080.")
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Another csplade service, by its gRPC address, to compare with; repeatable.",
        ),
    ] = None,
) -> None:
    """Serve an index with the explorer until Ctrl-C, to this machine alone.

    Prints the address of the page on stdout once it is ready.
    """
    from ..service import settings as service_settings

    settings = service_settings.load(
        config,
        {
            "index": index,
            "model.path": model,
            "model.device": device,
            "server.port": 0,
            "metrics.enabled": False,
            "http.enabled": True,
            "http.explorer": True,
            "http.port": port,
            "http.services": [{"name": one, "target": one} for one in compare] if compare else None,
            "logging.requests": False,
            "logging.level": "WARNING",
        },
    )
    from ..service.grpc import server as grpc_server
    from ..service.memory import check_memory
    from ..service.telemetry import logs

    logs.configure(settings.logging.level)
    check_memory(settings)
    scheme = "http" if settings.security.tls_certificate is None else "https"
    asyncio.run(
        grpc_server.serve(
            settings,
            on_ready=lambda server: typer.echo(f"{scheme}://{server.http_address}/explore"),
        )
    )
