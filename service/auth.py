"""Who may call: TLS credentials, and API keys from a file that is read again when it changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path

import grpc

from ..core.errors import InputError, KeyMissingError, KeyWrongError
from .settings import Security

log = logging.getLogger(__name__)


class Keys:
    """The accepted API keys, kept as digests."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._read_stamp()
        self._digests = self._read()
        if not self._digests:
            raise InputError(f"security.keys_file: {path} holds no key; write one key a line")

    def check(self, authorization: str | bytes | None) -> None:
        """Let a request pass, or not.

        Args:
            authorization: value of the ``authorization`` metadata, None when there is none.

        Raises:
            KeyMissingError: no bearer key at all.
            KeyWrongError: a key that is not in the file.
        """
        given = authorization if isinstance(authorization, str) else ""
        scheme, _, key = given.partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise KeyMissingError(
                "an API key is needed: send the metadata `authorization: Bearer KEY`"
            )
        self._refresh()
        digest = _digest(key.strip())
        # Every key is compared, each in constant time: how long it takes tells nothing about which
        # was near.
        if not sum(hmac.compare_digest(digest, known) for known in self._digests):
            raise KeyWrongError("the API key is not one of this server's")

    def _refresh(self) -> None:
        try:
            stamp = self._read_stamp()
            if stamp == self._stamp:
                return
            self._digests = self._read()
        except InputError as error:
            log.error("keys stay as they were: %s", error)
            return
        self._stamp = stamp
        log.info("read %d keys again from %s", len(self._digests), self._path)

    def _read_stamp(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise InputError(f"security.keys_file: {self._path}: {error.strerror}") from None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> list[bytes]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"security.keys_file: {self._path}: {error}") from None
        return [
            _digest(line.strip())
            for line in lines
            if line.strip() and not line.lstrip().startswith("#")
        ]


def server_credentials(settings: Security) -> grpc.ServerCredentials | None:
    """TLS credentials as the settings say, None for plain text.

    Raises:
        InputError: a file that cannot be read.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    pair = (_pem("tls_key", settings.tls_key), _pem("tls_certificate", settings.tls_certificate))
    if settings.client_ca is None:
        return grpc.ssl_server_credentials([pair])
    authorities = _pem("client_ca", settings.client_ca)
    return grpc.ssl_server_credentials([pair], authorities, require_client_auth=True)


def _pem(key: str, path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"security.{key}: {path}: {error.strerror}") from None
    if b"-----BEGIN " not in content:
        raise InputError(f"security.{key}: {path}: no PEM file, it has no BEGIN line")
    return content


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
