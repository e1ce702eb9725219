"""Processes are killed under steady load: some requests may fail, none is answered wrongly, all
comes back.
"""

import threading

import pytest

from .processes import processes

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(400)]

VICTIMS = {
    "encoder": "ray::ServeReplica:faults:encoder",
    "shard": "ray::ServeReplica:faults:shard-1",
    "ingress": "ray::ServeReplica:faults:ingress",
    "HAProxy": "haproxy -db",
    "controller": "ray::ServeController",
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_service_comes_back_after_a_kill(load, first, victim):
    with load(first) as requests:
        requests.wait_for(10, first)
        before = processes(VICTIMS[victim])
        assert before
        for process in before:
            process.kill()
        wait = threading.Event().wait
        assert any(set(processes(VICTIMS[victim])) - set(before) or wait(0.2) for _ in range(500))
        requests.wait_for(50, first)
    # While the only ingress is away, requests wait in Ray's fallback proxy, some of them for too
    # long. A proxy that has just started knows of no application for a moment.
    also = {"ingress": {"DEADLINE_EXCEEDED"}, "HAProxy": {"NOT_FOUND"}}
    allowed = {"UNAVAILABLE"} | also.get(victim, set())
    assert set(requests.codes) <= allowed, [str(error) for error in requests.errors[-3:]]
    if victim == "controller":  # nothing of a request passes through it
        assert not requests.errors
