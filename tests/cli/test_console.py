"""Progress without a terminal, and what a failing command prints."""

import socket

import pytest

from csplade.cli import console


@pytest.fixture
def clock(monkeypatch):
    """The time that progress reads; a test moves it by hand."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_job_prints_its_last_line_once(capsys, clock):
    with console.progress_bars("docs") as show:
        show("documents", 0, 300)
        clock[0] += 5
        show("documents", 150, 300)  # too early for a line
        clock[0] += 10
        show("documents", 200, 300)
        clock[0] += 5
        show("documents", 300, 300)
        show("documents", 300, 300)
        show("segments", 300, 300)
    assert capsys.readouterr().err.splitlines() == [
        "documents 200/300, 13.3 docs/s, 0:00:08 left",
        "documents 300/300, 15.0 docs/s, done in 0:00:20",
        "segments 300/300, done in 0:00:00",
    ]


def test_a_second_job_of_the_same_label_has_a_line_of_its_own(capsys, clock):
    with console.progress_bars("docs") as show:
        for _ in range(2):
            show("texts", 0, 10)
            clock[0] += 1
            show("texts", 10, 10)
    assert capsys.readouterr().err.splitlines() == ["texts 10/10, 10.0 docs/s, done in 0:00:01"] * 2


def test_a_port_that_is_taken_is_one_line(command_line, small_index):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command_line("serve", small_index, "--port", port, "--no-model", "--no-metrics")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("csplade: ")
    assert f"127.0.0.1:{port}" in done.stderr
