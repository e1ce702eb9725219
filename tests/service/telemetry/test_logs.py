"""The log never delays a request: lines that nobody reads are dropped and counted."""

import io
import json
import logging
import threading

from csplade.service.telemetry.logs import JsonFormatter, QueuedHandler


class Stuck(io.StringIO):
    """A stream whose reader does not read until it is released."""

    def __init__(self):
        super().__init__()
        self.entered, self.release = threading.Event(), threading.Event()

    def write(self, text):
        self.entered.set()
        assert self.release.wait(30)
        return super().write(text)


def record(text):
    return logging.makeLogRecord({"msg": text, "levelname": "INFO", "name": "csplade"})


def test_a_stuck_reader_costs_lines_and_no_time():
    stream = Stuck()
    handler = QueuedHandler(stream, lines=3)
    handler.setFormatter(JsonFormatter())
    handler.handle(record("written first"))
    assert stream.entered.wait(30)  # the thread holds the first line
    for number in range(5):
        handler.handle(record(f"line {number}"))
    assert handler.dropped == 2
    stream.release.set()
    handler.flush()
    lines = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert lines == ["written first", "line 0", "line 1", "line 2"]


def test_a_stream_that_is_gone_ends_nothing():
    stream = io.StringIO()
    handler = QueuedHandler(stream)
    stream.close()
    handler.handle(record("lost"))
    handler.flush()
    assert handler.dropped == 1
