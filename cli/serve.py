"""``csplade serve``: an index over gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import InputError


def serve(
    index: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Directory of the index; default: setting index."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings; deploy/csplade.yaml lists them all.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Encoder: embedded or a directory; default: the one of the index."),
    ] = None,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Load no encoder: vector queries only.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    quantization: Annotated[str | None, typer.Option(help="auto, none, int8, nf4 or fp4.")] = None,
    query_encoder: Annotated[
        str | None, typer.Option(help="Makes queries: auto, lexical, model or both.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of the encoder and of the scorer.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Serve HTTP/JSON too, at this port; 0 takes a free one.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of /metrics; 0 takes a free one.")
    ] = None,
    no_metrics: Annotated[bool, typer.Option("--no-metrics", help="Serve no /metrics.")] = False,
    keys_file: Annotated[Path | None, typer.Option(help="File with one API key per line.")] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM file of the server's certificate chain.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its private key.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="PEM file of client authorities, for mutual TLS.")
    ] = None,
    writable: Annotated[
        bool, typer.Option("--writable", help="Open the index for writing: upserts and deletes.")
    ] = False,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Run on Ray, started on this machine: a process per shard."),
    ] = False,
    log_level: Annotated[str | None, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, as KEY=VALUE; repeatable."),
    ] = None,
) -> None:
    """Serve an index over gRPC until SIGTERM.

    Prints host:port on stdout once it is ready.
    """
    from ..service import settings as service_settings

    flags: dict[str, Any] = {
        "index": index,
        "writable": True if writable else None,
        "model.enabled": False if no_model else None,
        "model.path": model,
        "model.device": device,
        "model.quantization": quantization,
        "model.query_encoder": query_encoder,
        "model.threads": threads,
        "scoring.threads": threads,
        "server.host": host,
        "server.port": port,
        "http.port": http_port,
        "http.enabled": None if http_port is None else True,
        "metrics.port": metrics_port,
        "metrics.enabled": False if no_metrics else None,
        "security.keys_file": keys_file,
        "security.tls_certificate": tls_certificate,
        "security.tls_key": tls_key,
        "security.client_ca": client_ca,
        "logging.level": log_level,
    }
    for option in options or ():
        key, equals, value = option.partition("=")
        if not equals:
            raise InputError(f"--set: {option!r} has no '='; must be KEY=VALUE, e.g. limits.k=100")
        flags[key] = value
    settings = service_settings.load(config, flags)
    # The server's packages load only now, so that a wrong setting fails at once.
    from ..service.memory import check_memory
    from ..service.telemetry import logs

    logs.configure(settings.logging.level)
    check_memory(settings)
    if ray:
        from ..service.ray.cluster import serve_on_ray

        serve_on_ray(settings, on_ready=typer.echo)
        return
    import uvloop

    from ..service.grpc import server as grpc_server

    uvloop.run(grpc_server.serve(settings, on_ready=lambda server: typer.echo(server.address)))
