"""``csplade loadtest`` with a real k6 against real servers on loopback."""

import json
import sys
import time

import pytest

from csplade.loadtest import compare, k6, profiles
from csplade.loadtest.target import Target

k6_is_here = pytest.mark.skipif(sys.platform != "linux", reason="k6 comes for Linux only")
pytestmark = k6_is_here


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs ``csplade loadtest ARGUMENTS`` in this process; gives exit code, output and the
    directory of results.
    """
    from csplade.cli.main import main

    def run(*arguments):
        out = tmp_path / "out"
        monkeypatch.setattr(
            sys, "argv", ["csplade", "loadtest", *map(str, arguments), "--out", str(out)]
        )
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err, out

    return run


def test_smoke_measures_every_kind_and_stage(command, server):
    code, told, errors, out = command(
        "--target", server.address, "--mix", "text=1,vector=1,encode=1", "--rate", 15,
        "--seconds", 2, "--p99", 60_000, "--metrics", f"http://{server.metrics_address}/metrics",
    )  # fmt: skip
    assert code == 0, told + errors
    content = json.loads((out / "result.json").read_text())
    (step,) = content["steps"]
    phase = step["phase"]
    assert 29 <= phase["outcome"]["sent"] <= 31
    assert phase["outcome"]["ok"]["count"] == phase["outcome"]["sent"]
    assert set(phase["kinds"]) == {"text", "vector", "encode"}
    assert sum(one["sent"] for one in phase["kinds"].values()) == phase["outcome"]["sent"]
    assert {"queue", "tokenize", "encode", "score", "total"} <= set(phase["server"])
    assert 0 < phase["server"]["total"]["p50"] <= phase["outcome"]["ok"]["p50"]
    assert phase["server"]["score"]["count"] == sum(
        phase["kinds"][kind]["sent"] for kind in ("text", "vector")
    )
    # The server counts what warms up as well.
    assert step["scraped"]["answers OK"] >= phase["outcome"]["sent"]
    assert content["readings"][0]["values"]["process_resident_memory_bytes"] > 1e6
    assert "csplade loadtest --target" in content["about"]["command"]
    assert "374 documents" in content["about"]["served"]
    assert f"Repeat: {content['about']['command']}" in told


def test_a_server_that_is_not_there_is_one_line(command):
    code, _, errors, _ = command("--target", "127.0.0.1:9", "--rate", 1)
    assert code == 1
    assert errors.startswith("csplade: target 127.0.0.1:9: Info: UNAVAILABLE: ")
    assert errors.count("\n") == 1


def test_soak_and_overload_need_a_rate(command, server):
    for profile in ("soak", "overload"):
        code, _, errors, _ = command("--target", server.address, "--profile", profile)
        assert (code, f"{profile} needs the rate" in errors) == (2, True)


@pytest.mark.slow
def test_an_overload_is_rejected_and_recovered_from(examples_index, tmp_path):
    from csplade.engine.collection import Collection
    from csplade.index import Index
    from csplade.loadtest import queries
    from csplade.service import settings as config
    from csplade.service.grpc.server import running

    class Slow:
        """An index that can do twenty searches a second."""

        def __init__(self):
            self._index = Index.open(examples_index, threads=1)

        def __getattr__(self, name):
            return getattr(self._index, name)

        @property
        def snapshot(self):
            return self

        def search(self, batch, k, mask=None, **options):
            time.sleep(0.05 * len(batch))
            return self._index.search(batch, k, mask, **options)

    flags = {
        "index": examples_index, "server.port": 0, "metrics.enabled": False,
        "limits.encode_texts": 1, "limits.batch_searches": 1, "batching.queue": 4,
        "batching.queries": 1, "logging.requests": False,
    }  # fmt: skip
    lines = tmp_path / "q.jsonl"
    lines.write_text('{"vector": {"3": 1.0, "70": 2.0}}\n')
    with running(config.load(flags=flags), lambda _: Collection(Slow())) as server:
        target, path = Target(server.address), tmp_path / "r.json"
        queries.prepare(
            queries.read_queries(lines),
            queries.read_mix("vector=1"),
            target,
            k=3,
            seed=1,
            path=path,
        )
        plan = profiles.LoadPlan(k6.Load(target, path, timeout=5), rate=20, seconds=3, around=3)
        found = profiles.run("overload", plan).overload
    assert found.during.outcome.rejected.count > 20
    assert found.during.outcome.ok.count > 5
    assert found.during.outcome.other == found.during.outcome.unavailable == 0
    assert found.during.outcome.rejected.p50 < found.during.outcome.ok.p50
    assert len(found.by_second) == 3
    assert 20 <= sum(one.sent for one in found.by_second) <= 31


@pytest.mark.slow
def test_what_the_service_adds_is_told_beside_engine_and_echo(examples_index, server, tmp_path):
    from csplade.bench.engine import EngineAlone
    from csplade.loadtest import queries

    target, path = Target(server.address), tmp_path / "r.json"
    lines = tmp_path / "q.jsonl"
    lines.write_text('{"vector": {"3": 1.0, "70": 2.0}}\n{"vector": {"5": 1.0}}\n')
    queries.prepare(
        queries.read_queries(lines), queries.read_mix("vector=1"), target, k=3, seed=1, path=path
    )
    plan = profiles.LoadPlan(k6.Load(target, path), rate=1, seconds=2)
    with EngineAlone(examples_index, threads=1) as engine:
        own, echo, service = compare.compare("single", plan, engine.times, rate=20, rounds=1)
    assert [own.failed, echo.failed, service.failed] == [0, 0, 0]
    assert own.p50 > 0
    assert 0 < echo.p50 < service.p50
    assert service.added == pytest.approx(service.p50 - own.p50)
    assert service.kept == (service.added <= 0.8)
    assert own.kept is None
    assert len(service.row()) == len(compare.HEADINGS)
