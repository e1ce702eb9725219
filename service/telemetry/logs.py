"""The log: one JSON object per line on standard error, with the id of the request it belongs to.

Lines are written by a thread. A reader that does not read delays no request: lines beyond a bounded
queue are dropped and counted.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
import uuid
from contextlib import suppress
from contextvars import ContextVar
from typing import TextIO

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request that is being answered; "" outside of any."""

MAX_ID_CHARACTERS = 128
QUEUED_LINES = 4096
GATHER_SECONDS = 0.02  # in which lines gather, to be written together: waking a thread costs more
FLUSH_SECONDS = 1.0  # that the process waits at its end for queued lines to be written
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)
_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Time (UTC), level, logger, message, request id, and the ``extra`` fields of the line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
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
        return _ENCODER.encode(line)


class QueuedHandler(logging.Handler):
    """Writes lines in a thread, from a bounded queue.

    Attributes:
        dropped: Lines that did not fit into the queue.
    """

    def __init__(self, stream: TextIO, lines: int = QUEUED_LINES) -> None:
        super().__init__()
        self.dropped = 0
        self._stream = stream
        self._lines: queue.Queue[str] = queue.Queue(lines)
        threading.Thread(target=self._write_forever, name="csplade-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Format a line here, where its request id is known, and enqueue it."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self.dropped += 1
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait until the queued lines are written, for a bounded time."""
        end = time.monotonic() + FLUSH_SECONDS
        with self._lines.all_tasks_done:
            while self._lines.unfinished_tasks:
                if (left := end - time.monotonic()) <= 0:
                    return
                self._lines.all_tasks_done.wait(left)

    def _write_forever(self) -> None:
        while True:
            lines = [self._lines.get()]
            with suppress(queue.Empty):
                while True:
                    lines.append(self._lines.get_nowait())
            try:
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads, or the stream is closed
                self.dropped += len(lines)
            for _ in lines:
                self._lines.task_done()
            time.sleep(GATHER_SECONDS)


def configure(level: str) -> None:
    """Send the log of this package, and the warnings of others, to standard error as JSON lines."""
    # Not sys.stderr: a replica's is Ray's own logger, which walks the whole stack for every line.
    handler = QueuedHandler(sys.__stderr__ or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(__package__.partition(".")[0]).setLevel(level)
    logging.captureWarnings(True)


def dropped_lines() -> float:
    """Return how many lines were dropped so far."""
    handlers = logging.getLogger().handlers
    return float(sum(one.dropped for one in handlers if isinstance(one, QueuedHandler)))


def take_or_make_id(given: str | bytes | None) -> str:
    """Return the caller's request id if it is short and printable ASCII, else a new one."""
    if (
        isinstance(given, str)
        and 0 < len(given) <= MAX_ID_CHARACTERS
        and given.isascii()
        and given.isprintable()
    ):
        return given
    return uuid.uuid4().hex
