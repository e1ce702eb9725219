import numpy as np

from csplade.bench import distribution
from csplade.bench.filter import HEADINGS, SHARES, run


def test_every_filter_is_timed_and_answers_as_a_mask_does(tmp_path):
    queries = distribution.queries(3, 12, 5)
    report = run(
        tmp_path / "index", 2000, 30.0, queries, "three queries", 20, 1, 7, lambda *_: None
    )
    assert len(report.filters) == 1 + 2 * len(SHARES)
    assert len(report.rows()[0]) == len(HEADINGS)
    matched = {(one.name, one.share): one.matched for one in report.filters}
    assert matched["none", 1.0] == matched["scattered", 1.0] == matched["by arrival", 1.0]
    shares = [matched["scattered", share] / matched["none", 1.0] for share in SHARES]
    np.testing.assert_allclose(shares, SHARES, atol=0.05)
    assert all(one.milliseconds > 0 for one in report.filters)
    assert report.to_json()["k"] == 20
