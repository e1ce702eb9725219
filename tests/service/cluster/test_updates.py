"""Another index, another model, other code, all under steady load: no request fails, none is
answered by a mixture.
"""

import pytest

from .processes import processes

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(400)]


def test_an_update_of_index_and_model_fails_no_request(load, deploy, first, second):
    with load(first, second) as requests:
        requests.wait_for(10, first)
        deploy(second)
        requests.wait_for(50, second)
        assert not requests.errors, [str(error) for error in requests.errors[:3]]
        deploy(first)
        requests.wait_for(50, first)
    assert not requests.errors, [str(error) for error in requests.errors[:3]]


def test_a_rolling_restart_fails_no_request(load, deploy, first):
    title = "ray::ServeReplica:faults"
    with load(first, timeout=30.0) as requests:
        requests.wait_for(10, first)
        before = set(processes(title))
        deploy(first, k=9000)
        requests.wait_for_end_of(before)
        requests.wait_for(50, first)
    assert not requests.errors, [str(error) for error in requests.errors[:3]]
