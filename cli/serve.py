"""``csplade serve``: an index over gRPC."""

from __future__ import annotations

import asyncio
from pathlib import Path

import typer

from ..core.errors import InputError


def serve(
    index: Path | None = typer.Argument(
        None, help="Directory of the index; else the setting `index`."
    ),
    config: Path | None = typer.Option(
        None, help="YAML file of settings; deploy/csplade.yaml shows them all."
    ),
    model: str | None = typer.Option(
        None, help="Directory of the encoder, or `embedded`; else the index's own."
    ),
    no_model: bool = typer.Option(
        False, "--no-model", help="Load no encoder: vector queries only."
    ),
    device: str | None = typer.Option(None, help="auto, cpu, cuda or cuda:N."),
    quantization: str | None = typer.Option(None, help="auto, none, int8, nf4 or fp4."),
    threads: int | None = typer.Option(None, help="CPU threads, of the encoder and of the scorer."),
    host: str | None = typer.Option(None, help="Address to listen at."),
    port: int | None = typer.Option(None, help="Port; 0 takes a free one."),
    metrics_port: int | None = typer.Option(None, help="Port of /metrics; 0 takes a free one."),
    no_metrics: bool = typer.Option(False, "--no-metrics", help="Serve no /metrics."),
    keys_file: Path | None = typer.Option(None, help="File with one API key a line."),
    tls_certificate: Path | None = typer.Option(
        None, help="PEM file of the server's certificate chain."
    ),
    tls_key: Path | None = typer.Option(None, help="PEM file of its private key."),
    client_ca: Path | None = typer.Option(None, help="PEM file of authorities for mutual TLS."),
    ray: bool = typer.Option(
        False, "--ray", help="Run on Ray, started on this machine: a process per shard."
    ),
    log_level: str | None = typer.Option(None, help="DEBUG, INFO, WARNING or ERROR."),
    options: list[str] = typer.Option(
        [], "--set", help="Any other setting, as KEY=VALUE; repeatable."
    ),
) -> None:
    """Serve an index over gRPC until SIGTERM; prints host:port on standard output once it is ready."""
    from ..service import settings as settings_of

    flags = {
        "index": index,
        "model.enabled": False if no_model else None,
        "model.path": model,
        "model.device": device,
        "model.quantization": quantization,
        "model.threads": threads,
        "scoring.threads": threads,
        "server.host": host,
        "server.port": port,
        "metrics.port": metrics_port,
        "metrics.enabled": False if no_metrics else None,
        "security.keys_file": keys_file,
        "security.tls_certificate": tls_certificate,
        "security.tls_key": tls_key,
        "security.client_ca": client_ca,
        "logging.level": log_level,
    }
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise InputError(f"--set {option}: must be KEY=VALUE, for example limits.k=100")
        flags[key] = value
    settings = settings_of.load(config, flags)
    from ..service import memory as capacity
    from ..service.telemetry import (
        logs,
    )  # only now: a wrong setting need not wait for what a server needs

    logs.configure(settings.logging.level)
    capacity.check_memory(settings)
    if ray:
        from ..service.ray.cluster import serve_on_ray

        serve_on_ray(settings, on_ready=typer.echo)
        return
    from ..service.grpc import server as service

    asyncio.run(service.serve(settings, on_ready=lambda server: typer.echo(server.address)))
