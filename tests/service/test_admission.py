"""What is counted as in flight, and rejected beyond the bound."""

import pytest

from csplade.core.errors import OverloadedError
from csplade.service.admission import Admission, RequestContext
from csplade.service.drain import Lifecycle
from csplade.service.telemetry.metrics import Metrics


@pytest.fixture
def admission():
    lifecycle = Lifecycle()
    lifecycle.loaded()
    return Admission(lifecycle, Metrics(), None, in_flight=4, timeout=60.0, log_requests=False)


def request(admission):
    return admission.request(RequestContext.create("SearchBatch", {}, "here", None))


async def test_a_batch_counts_as_many_as_its_queries(admission):
    lifecycle = admission.lifecycle
    with request(admission):
        with admission.counted_as(3), request(admission):
            assert lifecycle.in_flight == 4
            with pytest.raises(OverloadedError, match="4 requests are in flight and 1 more exceed"):
                admission.check("Search", {})
        assert lifecycle.in_flight == 1
        assert not lifecycle.idle.is_set()
    assert lifecycle.in_flight == 0
    assert lifecycle.idle.is_set()


async def test_a_batch_that_does_not_fit_is_rejected(admission):
    with request(admission):
        with (
            pytest.raises(OverloadedError, match="2 requests are in flight and 3 more exceed 4"),
            request(admission),
            admission.counted_as(4),
        ):
            pytest.fail("it was admitted")
        assert admission.lifecycle.in_flight == 1
