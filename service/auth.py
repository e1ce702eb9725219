"""Who may call: TLS credentials, and API keys with roles from a file that is read again."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from pathlib import Path
from typing import Literal, get_args

import grpc

from ..core.errors import InputError, KeyMissingError, KeyWrongError
from .settings import Security

log = logging.getLogger(__name__)

Role = Literal["search", "write", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
WRITING = frozenset({"Upsert", "UpsertStream", "Delete"})  # methods
REFRESH_SECONDS = (
    1.0  # between two looks at the file's contents; a changed time or size is seen at once
)


def role_of(method: str) -> Role:
    """Return the role that a key needs for a method."""
    return "write" if method in WRITING else "search"


class Keys:
    """The accepted API keys, kept as digests.

    A line of the file is a key and its roles: ``KEY [search] [write] [admin]``; a key alone may
    search. Empty lines and lines that begin with ``#`` are ignored. The file is read again when it
    changes, even if its time and size do not. While it is missing or not valid no key is accepted.

    Args:
        path: The file.

    Raises:
        InputError: it cannot be read, is not valid, or holds no key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = self._read()
        self._stamp = self._read_stamp()
        self._looked = time.monotonic()
        self._roles = self._parse(self._content)
        if not self._roles:
            raise InputError(f"security.keys_file: {path} holds no key; write one key per line")

    def check(self, authorization: str | bytes | None, role: Role = "search") -> None:
        """Raise unless the value of the ``authorization`` header is a key that has the role.

        Raises:
            KeyMissingError: no bearer key at all.
            KeyWrongError: a key that is not in the file, or that lacks the role.
        """
        if not any(role in roles for roles in self._roles_of(authorization)):
            raise KeyWrongError(f"authorization: the API key lacks the role {role}")

    def check_any(self, authorization: str | bytes | None) -> None:
        """Raise as :meth:`check` unless the value is a key of the file, whatever its roles."""
        self._roles_of(authorization)

    def _roles_of(self, authorization: str | bytes | None) -> list[frozenset[str]]:
        given = authorization if isinstance(authorization, str) else ""
        scheme, _, key = given.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise KeyMissingError(
                "authorization: no API key; send the metadata `authorization: Bearer KEY`"
            )
        self._refresh()
        digest = _digest(key.strip())
        # Every key is compared, in constant time: the duration tells nothing about any of them.
        found = [roles for known, roles in self._roles if hmac.compare_digest(digest, known)]
        if not found:
            raise KeyWrongError("authorization: the API key is not one of this server's")
        return found

    def _refresh(self) -> None:
        try:
            stamp = self._read_stamp()
            now = time.monotonic()
            if stamp == self._stamp and now - self._looked < REFRESH_SECONDS:
                return
            self._stamp, self._looked = stamp, now
            content = self._read()
            if content == self._content:
                return
            self._roles = self._parse(content)
            self._content = content
            log.info("read %d keys again from security.keys_file", len(self._roles))
        except InputError as error:
            if self._roles:
                log.error("no key is accepted: %s", error)
            self._roles, self._content, self._stamp = [], b"", None

    def _read_stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError as error:
            raise InputError(f"security.keys_file: {self._path}: {error.strerror}") from None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise InputError(f"security.keys_file: {self._path}: {error.strerror}") from None

    def _parse(self, content: bytes) -> list[tuple[bytes, frozenset[str]]]:
        keys = []
        for number, line in enumerate(content.split(b"\n"), 1):
            try:
                # Only blanks and tabs separate: other white space may be part of a key.
                words = re.split(r"[ \t]+", line.decode("utf-8").strip(" \t\r"))
            except UnicodeDecodeError:
                raise InputError(
                    f"security.keys_file: {self._path}:{number}: not UTF-8; write it as UTF-8"
                ) from None
            if not words[0] or words[0].startswith("#"):
                continue
            key, *roles = words
            for role in roles:
                if role not in ROLES:
                    raise InputError(
                        f"security.keys_file: {self._path}:{number}: a role is unknown; "
                        f"{', '.join(ROLES)}"
                    )
            keys.append((_digest(key), frozenset(roles or ["search"])))
        return keys


class Certificates:
    """TLS files of the server, read again when they change."""

    def __init__(self, settings: Security) -> None:
        self._settings = settings
        self._contents = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that take new files into use for new connections."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._fetch, require_client_authentication=self._mutual
        )

    @property
    def _mutual(self) -> bool:
        return self._settings.client_ca is not None

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return a new configuration if a file changed, else None. gRPC calls it per connection."""
        try:
            contents = self._read()
        except InputError as error:
            log.error("certificates stay as they were: %s", error)
            return None
        if contents == self._contents:
            return None
        self._contents = contents
        log.info("read the certificates again")
        return self._configuration()

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        key, certificate, authorities = self._contents
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities)

    def _read(self) -> tuple[bytes, bytes, bytes | None]:
        settings = self._settings
        assert settings.tls_key is not None
        assert settings.tls_certificate is not None
        return (
            _pem("tls_key", settings.tls_key),
            _pem("tls_certificate", settings.tls_certificate),
            None if settings.client_ca is None else _pem("client_ca", settings.client_ca),
        )


def server_credentials(settings: Security) -> grpc.ServerCredentials | None:
    """Return TLS credentials as the settings say, None for plain text.

    Raises:
        InputError: a file that cannot be read.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificates(settings).credentials()


def _pem(key: str, path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"security.{key}: {path}: {error.strerror}") from None
    if b"-----BEGIN " not in content:
        raise InputError(f"security.{key}: {path}: not a PEM file, it has no BEGIN line")
    return content


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
