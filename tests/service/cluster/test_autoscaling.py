"""Encoders come with the load and go with it, and nobody who asks notices."""

import threading
from contextlib import contextmanager

import pytest

from csplade.client.client import Client

from .conftest import NAME, QUERIES

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(400)]

SCALING = {
    "min_replicas": 1,
    "max_replicas": 2,
    "target_ongoing_requests": 1,
    "metrics_interval_s": 0.5,
    "look_back_period_s": 2,
    "upscale_delay_s": 0,
    "downscale_delay_s": 0,
}


def test_encoders_follow_the_load(application, deploy, load, first):
    deploy(first, encoder={"autoscaling_config": SCALING})
    try:
        with load(first) as requests:
            requests.wait_for(10, first)
            with encoding(application):
                wait_for_encoders(2)
                requests.wait_for(50, first)
            wait_for_encoders(1)
            requests.wait_for(50, first)
    finally:
        deploy(first)
    assert not requests.errors, [str(error) for error in requests.errors[:3]]


@contextmanager
def encoding(address):
    """Four callers that always have texts to encode."""
    stop = threading.Event()

    def encode():
        with Client(address, application=NAME) as client:
            while not stop.is_set():
                client.encode(QUERIES * 8)

    callers = [threading.Thread(target=encode) for _ in range(4)]
    for caller in callers:
        caller.start()
    yield
    stop.set()
    for caller in callers:
        caller.join()


def wait_for_encoders(count):
    from ray import serve

    def running():
        states = serve.status().applications[NAME].deployments["encoder"].replica_states
        return states.get("RUNNING", 0)

    wait = threading.Event().wait
    assert any(running() == count or wait(0.2) for _ in range(500)), running()
