"""Every example script runs, and the README shows the same code."""

import asyncio
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def main_of(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


@pytest.fixture(scope="module")
def target(tiny_model, tmp_path_factory):
    """The address of a service of the example passages."""
    from csplade.ingest.build import build_from_corpus
    from csplade.model import Encoder
    from csplade.service.grpc.server import running
    from csplade.service.settings import load

    index = tmp_path_factory.mktemp("examples") / "index"
    build_from_corpus(EXAMPLES / "corpus.jsonl", index, Encoder.from_pretrained(tiny_model))
    flags = {
        "index": index,
        "writable": True,
        "server.port": 0,
        "metrics.enabled": False,
        "logging.requests": False,
    }
    with running(load(flags=flags)) as server:
        yield server.address


def test_search_service(target, capsys):
    main_of("search_service")("the cats and the bread", target)
    *hits, last = capsys.readouterr().out.splitlines()
    assert len(hits) == 5
    assert all(re.fullmatch(r"\d+\.\d\d  .+  \(.+ \d+\.\d\d.*\)", hit) for hit in hits)
    assert re.fullmatch(r"\d+ passages match, \d+ postings read", last)


def test_explain_hits(target, capsys):
    main_of("explain_hits")("the cats and the bread", target)
    *terms, total, compared = capsys.readouterr().out.splitlines()
    products = [int(line.rpartition(" = ")[2]) for line in terms]
    assert total.split()[1] == f"{sum(products)},"
    assert compared == "100 ranks compared with the reference: verified.identical=True"


def test_search_many_writes_a_run_that_measure_run_reads(target, capsys, tmp_path):
    run = tmp_path / "run.trec"
    main_of("search_many")(str(run), target)
    assert capsys.readouterr().out == f"{run}: 139 queries\n"
    assert len(run.read_text().splitlines()) == 1390
    main_of("measure_run")(str(run))
    assert re.match(r"nDCG@10 0\.\d{4}, RR@10 0\.\d{4}, ", capsys.readouterr().out)


def test_search_async(target, capsys):
    asyncio.run(main_of("search_async")(target))
    assert re.match(r"(.+: .+\n){4}$", capsys.readouterr().out)


def test_fuse_rankings(target, capsys):
    main_of("fuse_rankings")("the cats and the bread", target)
    shown = capsys.readouterr().out
    assert re.fullmatch(
        r"by ranks: (\S+ 0\.0\d\d(, |\n)){3}by scores: (\S+ [01]\.\d{3}(, |\n)){3}", shown
    )


def test_write_documents(target, capsys):
    main_of("write_documents")(target)
    first, found, updated, late, deleted = capsys.readouterr().out.splitlines()
    version = int(first.removeprefix("created as version "))
    assert version > 1
    assert found == "found: True"
    assert updated == "updated to {'year': 1988}"
    assert late == "failed ABORTED"
    assert deleted == "deleted [None]"


def test_encode_texts(tiny_model, capsys):
    main_of("encode_texts")(str(tiny_model))
    first, terms, *_ = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+\.\d\d  Cats purr.*", first)
    assert len(terms.split(", ")) == 8


def test_index_corpus(tiny_model, capsys):
    main_of("index_corpus")(str(tiny_model))
    summary, *hits = capsys.readouterr().out.splitlines()
    assert summary.startswith("374 passages, ")
    assert len(hits) == 5


def test_index_vectors(capsys):
    main_of("index_vectors")()
    ranking = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert ranking == ["cats", "dogs"]


def test_filter_hits(capsys):
    main_of("filter_hits")()
    whole, filtered = capsys.readouterr().out.splitlines()
    assert whole == "4 match: birds, vögel, flight, undated"
    assert filtered == "2 match: flight, undated"


def test_every_script_is_run_here_and_listed():
    tested = set(re.findall(r'main_of\("(\w+)"\)', Path(__file__).read_text()))
    listed = set(re.findall(r"`(\w+)\.py`", (EXAMPLES / "README.md").read_text()))
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested == listed


def test_the_readme_shows_the_code_of_search_service(target, capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(code.replace("localhost:50051", target), {})
    shown = capsys.readouterr().out
    main_of("search_service")("do I need a lawyer", target)
    *hits, _ = capsys.readouterr().out.splitlines()
    assert shown.splitlines() == hits
