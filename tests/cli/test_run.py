import subprocess
import sys

import pytest

import csplade
from csplade.core.lines import read_jsonl


def test_without_the_server_extra_the_command_says_what_to_install():
    program = "import sys; sys.modules['typer'] = None; from csplade.cli import run; run()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "csplade[server]" in done.stderr
    assert done.stderr.count("\n") == 1


def test_version_and_help_load_no_torch():
    program = (
        "import sys; from csplade.cli import run\n"
        "try:\n    run()\nexcept SystemExit:\n    print('torch' in sys.modules)"
    )
    for option, expected in (("--version", csplade.__version__), ("--help", "evaluate")):
        done = subprocess.run(
            [sys.executable, "-c", program, option], capture_output=True, text=True
        )
        assert expected in done.stdout
        assert done.stdout.endswith("False\n")


@pytest.fixture(scope="module")
def lookup_index(tmp_path_factory, tiny_model, small_corpus):
    """The small corpus, indexed with a model whose queries are looked up in a table."""
    from csplade.ingest.build import build_from_corpus
    from csplade.model import Encoder
    from csplade.model.certify import certify
    from csplade.model.training.idf import train_idf

    directory = tmp_path_factory.mktemp("lookup")
    texts = [line["text"] for _, line in read_jsonl(small_corpus)]
    train_idf(tiny_model, directory / "model", texts)
    certify(directory / "model")
    encoder = Encoder.from_pretrained(directory / "model")
    build_from_corpus(small_corpus, directory / "index", encoder)
    return directory / "index"


@pytest.mark.parametrize("many", [False, True], ids=["text", "file"])
def test_a_look_up_search_loads_no_network_and_no_transport(lookup_index, lines, tmp_path, many):
    what = ["coffee and tea"]
    if many:
        queries = lines("q.jsonl", {"_id": "a", "text": "coffee and tea"})
        what = ["--queries", str(queries), "--output", str(tmp_path / "run.trec")]
    program = (
        "import sys; from csplade.cli import run\n"
        "try:\n    run()\n"
        "finally:\n    print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, "search", str(lookup_index), *what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "tea" in done.stdout or (tmp_path / "run.trec").read_text()
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "numba" in loaded
    unneeded = {"accelerate", "bitsandbytes", "grpc", "huggingface_hub", "matplotlib"}
    unneeded |= {"pandas", "peft", "ray", "torch", "transformers"}
    assert not loaded & unneeded
