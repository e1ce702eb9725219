"""Errors that a user can cause and fix.

Each has one line of text that names the field or file, the value and the bound, and a ``code``: the
name of a gRPC status. ``service/grpc/status.py`` maps codes to gRPC, ``service/http`` to HTTP.
Errors survive pickling with all their attributes, so they can cross process boundaries as values.
"""

from __future__ import annotations

from typing import Any

MAX_CHARACTERS = 800


class CspladeError(Exception):
    """Base of every error meant for a user. The command line exits with 1 on it.

    Its text is one line of at most ``MAX_CHARACTERS``: it may repeat what a file or a caller said.
    """

    code: str = "INTERNAL"

    def __str__(self) -> str:
        text = " ".join(super().__str__().split())
        return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 3]}..."

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, vars(self))


class InternalError(CspladeError):
    """A failure that the caller did not cause; the log of the process that failed explains it."""


class InputError(CspladeError, ValueError):
    """A value, file or line that breaks a stated rule."""

    code = "INVALID_ARGUMENT"


class IncompatibleError(CspladeError):
    """Two things that are each valid but do not belong together.

    For example an index built by another encoder, or a model whose golden texts do not reproduce.
    """

    code = "FAILED_PRECONDITION"


class CorruptError(CspladeError):
    """A file on disk that is incomplete, altered or of another format version."""


class UnavailableError(CspladeError):
    """Something outside the process is missing: a package index, a device, a server."""

    code = "UNAVAILABLE"


class StorageError(UnavailableError):
    """Files cannot be read or written now. The text names them: callers elsewhere do not see it."""


class UnsupportedError(CspladeError):
    """The service does not do this in the way it is run."""

    code = "UNIMPLEMENTED"


class NotFoundError(CspladeError):
    """What a request names does not exist."""

    code = "NOT_FOUND"


class OverloadedError(CspladeError):
    """The queue is full, or the only place of its kind is taken.

    Attributes:
        retry_after: Seconds to wait before the next attempt.
    """

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class VersionConflictError(CspladeError):
    """A write names a version of a document that is not its current one."""

    code = "ABORTED"


class VectorNeededError(InputError):
    """A write keeps a document's vector, but the document is new or its text is another."""


class DeadlineError(CspladeError):
    """The deadline of a request passed."""

    code = "DEADLINE_EXCEEDED"


class KeyMissingError(CspladeError):
    """A request needs an API key and has none."""

    code = "UNAUTHENTICATED"


class KeyWrongError(CspladeError):
    """The API key of a request is not one of the server's."""

    code = "PERMISSION_DENIED"


def _restore(
    kind: type[CspladeError], args: tuple[Any, ...], state: dict[str, Any]
) -> CspladeError:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(state)
    return error
