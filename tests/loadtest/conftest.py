"""Canned results of k6, and a real server of the examples by the tiny model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from csplade.loadtest.k6 import Latency, Outcome, Phase
from csplade.loadtest.knee import Step

EXAMPLES = Path(__file__).parents[2] / "examples"


def times(count: int, p50: float) -> dict[str, Any]:
    """A trend of a k6 summary."""
    values = {
        "count": count,
        "min": 0.5 * p50,
        "med": p50,
        "p(95)": 2 * p50,
        "p(99)": 3 * p50,
        "max": 4 * p50,
    }
    return {"type": "trend", "contains": "time", "values": values}


@pytest.fixture
def metrics() -> dict[str, Any]:
    """The metrics of a steady run of 100 searches: 80 answered, 15 rejected, 3 late, 2 with another
    status; 4 not sent.
    """
    prefix = "scenario:steady"
    return {
        f"grpc_req_duration{{{prefix}}}": times(100, 9.0),
        f"grpc_req_duration{{{prefix},status:0}}": times(80, 10.0),
        f"grpc_req_duration{{{prefix},status:4}}": times(3, 500.0),
        f"grpc_req_duration{{{prefix},status:8}}": times(15, 1.0),
        f"grpc_req_duration{{{prefix},status:14}}": times(0, 0.0),
        f"grpc_req_duration{{kind:text,{prefix}}}": times(100, 9.0),
        f"grpc_req_duration{{kind:text,{prefix},status:0}}": times(80, 10.0),
        f"grpc_req_duration{{kind:vector,{prefix}}}": times(0, 0.0),
        f"dropped_iterations{{{prefix}}}": {"values": {"count": 4, "rate": 0.4}},
        f"unreached{{{prefix}}}": {"values": {"count": 1, "rate": 0.1}},
        f"server_queue{{{prefix}}}": times(80, 2.0),
        f"server_score{{{prefix}}}": times(80, 0.5),
        f"server_total{{{prefix}}}": times(80, 9.0),
        f"server_encode{{{prefix}}}": times(0, 0.0),
    }


@pytest.fixture
def step() -> Callable[..., Step]:
    """Makes a step at a rate: what a server that can do ``capacity`` a second would give."""

    def make(rate: float, capacity: float = 100.0, seconds: float = 10.0) -> Step:
        due = round(rate * seconds)
        done = min(due, round(capacity * seconds))
        p50 = 5.0 if rate <= capacity else 400.0
        ok = Latency(done, p50, 1.5 * p50, 2 * p50, 3 * p50)
        rejected = Latency(due - done, 1.0, 1.0, 1.0, 1.0)
        outcome = Outcome(due, ok, rejected, 0, 0, 0)
        server = {
            "score": Latency(done, 1.0, 1.0, 1.0, 1.0),
            "total": Latency(done, 4.0, 4.0, 4.0, 4.0),
        }
        return Step(
            rate, seconds, Phase(outcome, {"text": outcome}, 0, 0, server), {"score ms": 1.25}
        )

    return make


@pytest.fixture(scope="session")
def examples_index(tiny_model, tmp_path_factory) -> Path:
    from csplade.ingest.build import build_from_corpus
    from csplade.model import Encoder

    path = tmp_path_factory.mktemp("examples") / "index"
    build_from_corpus(
        EXAMPLES / "corpus.jsonl", path, Encoder.from_pretrained(tiny_model), shards=2
    )
    return path


@pytest.fixture(scope="session")
def server(examples_index) -> Iterator[Any]:
    """The single process on loopback, with metrics; its ``address`` and ``metrics_address``."""
    from csplade.service import settings as config
    from csplade.service.grpc.server import running

    flags = {
        "index": examples_index,
        "server.port": 0,
        "metrics.port": 0,
        "logging.requests": False,
    }
    with running(config.load(flags=flags)) as one:
        yield one
