"""Every setting of the service in one frozen tree: YAML file, then ``CSPLADE_*`` environment, then
flags.

A nested key is written with two underscores in the environment: ``limits.k`` is
``CSPLADE_LIMITS__K``. Unknown keys and variables are errors. ``deploy/csplade.yaml`` shows every
key, its default and its meaning.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from ..core.errors import InputError
from ..core.vectors import MAX_QUERY_TERMS
from ..index.read.filter import CACHE_BYTES

PREFIX = "CSPLADE_"
# Variables of the model loader, of tests and of the Ray cluster; they share the prefix.
NOT_SETTINGS = {"CSPLADE_CACHE", "CSPLADE_CASES", "CSPLADE_DATA", "CSPLADE_RAY_STOP_FILE"}


class Section(BaseModel):
    """A named group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Model(Section):
    """The encoder."""

    enabled: bool = True
    path: str | None = None
    device: str = "auto"
    quantization: Literal["auto", "none", "int8", "nf4", "fp4"] = "auto"
    query_encoder: Literal["auto", "lexical", "model", "both"] = "auto"
    threads: int | None = Field(default=None, ge=1)


class Scoring(Section):
    """The index's scorer."""

    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    filter_bytes: int = Field(default=CACHE_BYTES, ge=0)


class Gpu(Section):
    """What the encoder and the scorer share on each GPU."""

    graphs: bool = True
    working_gib: float = Field(default=6.0, ge=0.5)


class Server(Section):
    """Where and how the gRPC server listens."""

    host: str = "127.0.0.1"
    port: int = Field(default=50051, ge=0, le=65535)
    reflection: bool = True
    health_socket: Path | None = None
    receive_bytes: int = Field(default=4 * 2**20, ge=1024, le=2**31 - 1)
    send_bytes: int = Field(default=64 * 2**20, ge=1024, le=2**31 - 1)
    lame_duck_seconds: float = Field(default=1.0, ge=0)
    drain_seconds: float = Field(default=30.0, ge=0)
    keepalive_seconds: float = Field(default=7200.0, ge=1)
    keepalive_timeout_seconds: float = Field(default=20.0, gt=0)
    connection_age_seconds: float | None = Field(default=None, gt=0)
    fetch_threads: int = Field(default=2, ge=1)


class Service(Section):
    """Another csplade service, which the explorer may ask."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")
    target: str = Field(pattern=r"^\S+:\d{1,5}$")
    application: str | None = None
    tls: bool = False
    ca: Path | None = None
    key_file: Path | None = None


class Http(Section):
    """The HTTP server beside the gRPC server."""

    enabled: bool = False
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    hosts: tuple[str, ...] | None = None
    cors_origins: tuple[str, ...] = ()
    explorer: bool = False
    services: tuple[Service, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Http:
        if self.services and not self.explorer:
            raise ValueError("services is set, but explorer is not, which alone asks them")
        names = [service.name for service in self.services]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two services are named {repeated.pop()!r}")
        return self


class MetricsEndpoint(Section):
    """The Prometheus endpoint."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = Field(default=9464, ge=0, le=65535)
    needs_key: bool = False


class Security(Section):
    """TLS and keys."""

    tls_certificate: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    keys_file: Path | None = None

    @model_validator(mode="after")
    def _whole(self) -> Security:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key are given together or not at all")
        if self.client_ca is not None and self.tls_certificate is None:
            raise ValueError("client_ca (mutual TLS) needs tls_certificate and tls_key")
        return self


class Batching(Section):
    """The batching worker and its queue."""

    tokens: int = Field(default=8192, ge=1)
    background_tokens: int = Field(default=1024, ge=1)
    queries: int = Field(default=64, ge=1, le=4096)
    queue: int = Field(default=512, ge=1)


class Limits(Section):
    """Bounds that a request must keep."""

    k: int = Field(default=10_000, ge=1, le=10_000)
    explain_k: int = Field(default=1000, ge=1, le=10_000)
    query_terms: int = Field(default=MAX_QUERY_TERMS, ge=1, le=MAX_QUERY_TERMS)
    text_bytes: int = Field(default=65_536, ge=1)
    encode_texts: int = Field(default=64, ge=1)
    batch_searches: int = Field(default=64, ge=1)
    stream_in_flight: int = Field(default=64, ge=1)
    documents: int = Field(default=1000, ge=1, le=100_000)
    in_flight: int = Field(default=1024, ge=1)
    connections: int = Field(default=16_384, ge=1, le=2**31 - 1)
    connection_streams: int = Field(default=8192, ge=1, le=2**31 - 1)
    timeout_seconds: float = Field(default=60.0, gt=0)


class Logging(Section):
    """The structured log on standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    requests: bool = True
    query_text: bool = False


class Tracing(Section):
    """OpenTelemetry spans."""

    endpoint: str | None = Field(default=None, pattern=r"^https?://[^/\s]+:\d+$")
    ratio: float = Field(default=1.0, ge=0, le=1)


class Settings(BaseSettings):
    """The whole tree; :func:`load` builds it."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_parse_none_str="null",
    )

    index: Path | None = None
    writable: bool = False
    model: Model = Model()
    scoring: Scoring = Scoring()
    gpu: Gpu = Gpu()
    server: Server = Server()
    http: Http = Http()
    metrics: MetricsEndpoint = MetricsEndpoint()
    security: Security = Security()
    batching: Batching = Batching()
    limits: Limits = Limits()
    logging: Logging = Logging()
    tracing: Tracing = Tracing()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.metrics.needs_key and self.security.keys_file is None:
            raise ValueError("metrics.needs_key is set, but security.keys_file names no file")
        limits, queue = self.limits, self.batching.queue
        for name, value, other, bound in (
            ("encode_texts", limits.encode_texts, "batching.queue", queue),
            ("batch_searches", limits.batch_searches, "batching.queue", queue),
            ("batch_searches", limits.batch_searches, "limits.in_flight", limits.in_flight),
        ):
            if value > bound:
                raise ValueError(
                    f"limits.{name} {value} exceeds {other} {bound}: it could never be accepted"
                )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over environment over file; nothing else is read."""
        assert isinstance(init_settings, InitSettingsSource)
        given = dict(init_settings.init_kwargs)
        file = given.pop("_file", {})
        return (
            InitSettingsSource(settings_cls, given),
            env_settings,
            InitSettingsSource(settings_cls, file),
        )


def load(file: Path | str | None = None, flags: dict[str, Any] | None = None) -> Settings:
    """Read the settings.

    Args:
        file: a YAML file, or None.
        flags: dotted key -> value, over everything else (``{"limits.k": 100}``); None values are
            passed over.

    Raises:
        InputError: no such file, broken YAML, an unknown key or variable, a value out of its
            bounds.
    """
    from_file = _read_yaml(Path(file)) if file is not None else {}
    from_flags: dict[str, Any] = {}
    for key, value in (flags or {}).items():
        if value is None:
            continue
        *sections, last = key.split(".")
        target = from_flags
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = value
    for variable in os.environ:
        section = variable.removeprefix(PREFIX).split("__")[0].lower()
        if (
            variable.startswith(PREFIX)
            and variable not in NOT_SETTINGS
            and section not in Settings.model_fields
        ):
            raise InputError(
                f"environment: {variable}: unknown setting; known are {_names(Settings)}"
            )
    try:
        return Settings(_file=from_file, **from_flags)  # type: ignore[call-arg]
    except ValidationError as error:
        raise InputError(_one_line(error, file, from_file, from_flags)) from None
    except SettingsError as error:  # a whole section given as a variable that is no JSON
        raise InputError(f"environment: {error}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: broken YAML: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: a mapping of settings is needed, found {type(value).__name__}")
    return value


def _one_line(
    error: ValidationError,
    file: Path | str | None,
    from_file: dict[str, Any],
    from_flags: dict[str, Any],
) -> str:
    """The first complaint, with where the value came from."""
    first = error.errors()[0]
    keys = [str(key) for key in first["loc"]]
    if not keys:
        return "settings: " + first["msg"].removeprefix("Value error, ")
    source = "flags" if _holds(from_flags, keys) else "environment"
    if source == "environment" and PREFIX + "__".join(keys).upper() not in map(
        str.upper, os.environ
    ):
        source = str(file) if file is not None and _holds(from_file, keys) else "settings"
    name = ".".join(keys)
    if first["type"] == "extra_forbidden":
        section: Any = Settings
        for key in keys[:-1]:
            is_list = get_origin(section) is tuple
            section = get_args(section)[0] if is_list else section.model_fields[key].annotation
        return f"{source}: {name}: unknown key; known are {_names(section)}"
    reason = first["msg"].removeprefix("Value error, ")
    shown = f" = {first['input']!r}" if not isinstance(first["input"], dict) else ""
    return f"{source}: {name}{shown}: {reason}"


def _holds(tree: Any, keys: list[str]) -> bool:
    for key in keys:
        if isinstance(tree, list | tuple) and int(key) < len(tree):
            tree = tree[int(key)]
        elif isinstance(tree, dict) and key in tree:
            tree = tree[key]
        else:
            return False
    return True


def _names(section: type[BaseModel]) -> str:
    return ", ".join(section.model_fields)
