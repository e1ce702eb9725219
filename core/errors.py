"""Errors a user can cause and mend: one line each, naming the field or file, the value and the
bound.
"""


class CspladeError(Exception):
    """Base of every error meant for a user; the message is one line. The command line exits with 1
    on it.
    """


class InputError(CspladeError, ValueError):
    """A value, file or line that breaks a stated rule (INVALID_ARGUMENT over gRPC)."""


class IncompatibleError(CspladeError):
    """Two things that are each sound but do not belong together (FAILED_PRECONDITION over gRPC).

    For example an index built by another encoder, or a model whose golden texts do not reproduce.
    """


class CorruptError(CspladeError):
    """A file on disk that is torn, altered or of another format version."""


class UnavailableError(CspladeError):
    """Something outside the process that is not there: a package index, a device, a server
    (UNAVAILABLE).
    """


class OverloadedError(CspladeError):
    """The queue is full, or the one place of its kind is taken; ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(CspladeError):
    """The request's time ran out."""


class KeyMissingError(CspladeError):
    """A key is needed and none came."""


class KeyWrongError(CspladeError):
    """The key that came is none of the server's."""
