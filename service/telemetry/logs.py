"""The log: one JSON object a line on standard error, with the id of the request that a line belongs
to.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import uuid
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request that is being answered; "" outside of any."""

LONGEST_ID = 128
_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Time (UTC), level, logger, message, request id, and whatever the line was given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        line.update((key, value) for key, value in vars(record).items() if key not in _PLAIN)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str) -> None:
    """Send the log of this package, and the warnings of others, to standard error as JSON lines."""
    # Not sys.stderr: a replica's is Ray's own logger, which looks at the whole stack for every
    # line.
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(__package__.partition(".")[0]).setLevel(level)


def take_or_make_id(given: str | bytes | None) -> str:
    """The caller's request id when it is short and printable ASCII, else a new one."""
    if (
        isinstance(given, str)
        and 0 < len(given) <= LONGEST_ID
        and given.isascii()
        and given.isprintable()
    ):
        return given
    return uuid.uuid4().hex
