"""The search for the knee, against servers that are made up."""

import pytest

from csplade.loadtest.knee import knee, search


@pytest.mark.parametrize("capacity", [3.0, 10.0, 95.0, 1234.0])
def test_the_knee_is_found_from_below_and_from_above(step, capacity):
    steps = search(lambda rate: step(rate, capacity), 10, p99=250, growth=2, halvings=3, most=16)
    rates = [one.rate for one in steps]
    assert rates == sorted(rates)
    found = knee(steps, 250)
    assert found is not None
    assert 0.8 * capacity <= found.rate <= capacity * 1.001


def test_it_stops_at_the_most_steps_and_says_when_there_is_no_knee(step):
    tried = []

    def measure(rate):
        tried.append(rate)
        return step(rate, capacity=1e-9)

    steps = search(measure, 10, p99=250, growth=2, halvings=3, most=5)
    assert len(tried) == 5
    assert knee(steps, 250) is None


def test_a_rate_above_one_that_failed_is_no_knee(step):
    steps = [step(10), step(20, capacity=1), step(40)]
    assert knee(steps, 250).rate == 10


def test_late_answers_and_missing_ones_are_both_too_high(step):
    good = step(50)
    assert good.kept(250)
    assert not good.kept(9)  # p99 is 10
    assert not step(101, capacity=100).kept(10_000)  # one in a hundred is rejected
