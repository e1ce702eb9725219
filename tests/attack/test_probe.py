"""The runner that measures a probe beside attacks: each attack acts, and the probe is answered.

How long it takes is not asked here: that is what the runner's table is for.
"""

import pytest

from .probe import ATTACKS, measure, rows, said, serving

pytestmark = pytest.mark.attack


@pytest.mark.parametrize("name", ATTACKS)
def test_the_probe_is_answered_beside_each_attack(text_index, name):
    with serving(text_index) as place:
        # The stalled store takes six seconds for the two shards of an answer.
        measured = measure(place, name, seconds=9, rate=3)
    assert measured.acts > 0
    # Streams of a caller with a key may fill limits.in_flight: the probe is rejected at once then.
    rejected = {"RESOURCE_EXHAUSTED"} if name == "closed_windows" else set()
    assert set(measured.failed) <= rejected
    assert len(measured.seconds) + measured.failed.total() == 27
    assert said(name) in "".join(rows({name: (measured, measured)}))
