import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

# Runs the command line, but kills it for real (SIGKILL) before the n-th call of a function.
KILLER = """
import importlib, os, signal, sys
from csplade.cli.main import main

module, _, path = sys.argv[1].partition(":")
left = int(sys.argv[2])
owner = importlib.import_module(module)
*outer, name = path.split(".")
for one in outer:
    owner = getattr(owner, one)
called = getattr(owner, name)

def killing(*args, **kwargs):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return called(*args, **kwargs)

setattr(owner, name, killing)
sys.argv = ["csplade", *sys.argv[3:]]
main()
"""


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def _logging_as_it_was():
    """``csplade serve`` sends the log of the whole process to its own standard error."""
    loggers = [logging.getLogger(), logging.getLogger("csplade")]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    yield
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)


@pytest.fixture
def cli(monkeypatch, capsys, _logging_as_it_was):
    """Runs ``csplade ARGUMENTS`` in this process, through the real ``main``."""
    from csplade.cli.main import main

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["csplade", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return Outcome(stop.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def fails(cli):
    """Runs a command that must fail with exit code 1 and one line on stderr, which is returned."""

    def run(*arguments: object) -> str:
        outcome = cli(*arguments)
        said = [line for line in outcome.err.splitlines() if line.startswith("csplade: ")]
        assert outcome.code == 1, outcome
        assert len(said) == 1, outcome.err
        assert "Traceback" not in outcome.err
        return said[0].removeprefix("csplade: ")

    return run


@pytest.fixture
def killed():
    """Runs a command in a process that is killed before the n-th call of ``module:function``."""

    def run(function: str, calls: int, *arguments: object) -> None:
        command = [sys.executable, "-c", KILLER, function, str(calls), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=170)
        assert done.returncode == -9, f"not killed but {done.returncode}: {done.stderr}"

    return run


@pytest.fixture
def command_line():
    """Runs ``csplade ARGUMENTS`` in a process of its own."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        program = "from csplade.cli import run; run()"
        command = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=170)

    return run


def write_lines(path: Path, lines: list) -> Path:
    path.write_text(
        "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
    )
    return path


@pytest.fixture
def lines(tmp_path):
    """Writes a JSON-lines file; strings go in as they are."""
    return lambda name, *content: write_lines(tmp_path / name, list(content))


WORDS = ["tea", "coffee", "river", "stone", "bird", "song", "##ing", "ünï", "2019", "sky"]


@pytest.fixture(scope="session")
def many_vectors(tmp_path_factory):
    """2,500 ready vectors over ten token strings: three chunks of a build."""
    draw = np.random.default_rng(5)
    content = [
        {
            "id": f"d{i}",
            "contents": f"text {i}",
            "vector": {
                WORDS[term]: round(float(weight), 2)
                for term, weight in zip(
                    draw.permutation(10)[: i % 7], draw.uniform(0.1, 4, 7), strict=False
                )
            },
        }
        for i in range(2500)
    ]
    return write_lines(tmp_path_factory.mktemp("vectors") / "many.jsonl", content)


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory):
    """300 short documents, every tenth without a title, every fiftieth without text."""
    content = [
        {
            "_id": f"d{i}",
            "title": "" if i % 10 == 0 else f"{WORDS[i % 10]} {i}",
            "text": "" if i % 50 == 0 else f"the {WORDS[i % 7]} and the {WORDS[i % 9]}",
            "year": 1900 + i,
        }
        for i in range(300)
    ]
    return write_lines(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", content)


@pytest.fixture(scope="session")
def small_index(tmp_path_factory, small_corpus, tiny_model):
    """The small corpus, indexed in two shards with the tiny model."""
    from csplade.ingest.build import build_from_corpus
    from csplade.model import Encoder

    path = tmp_path_factory.mktemp("index") / "small"
    build_from_corpus(small_corpus, path, Encoder.from_pretrained(tiny_model), shards=2)
    return path
