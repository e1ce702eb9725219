import pytest

from csplade.bench import distribution, live


@pytest.mark.parametrize("peer", [False, True])
def test_rates_latencies_and_what_is_written(tmp_path, monkeypatch, peer):
    if peer:
        pytest.importorskip("qdrant_edge")
    for name, value in {"WINDOW": 2, "CALLERS": 2, "SINGLES": 3}.items():
        monkeypatch.setattr(live, name, value)
    told = []
    report = live.run(
        tmp_path,
        [32, 64],
        16,
        20,
        distribution.queries(2, 5, 1),
        3,
        peer=peer,
        progress=lambda *one: told.append(one),
    )
    assert [size for size, _, _ in report.rates] == [32, 64]
    assert all(ours > 0 for _, ours, _ in report.rates)
    assert all((theirs is not None) == peer for _, _, theirs in report.rates)
    assert 0 < report.single_ms[0] <= report.single_ms[1]
    assert min(report.idle_ms, report.busy_ms, report.compacted_ms, report.fsync_ms) > 0
    assert told[-1] == ("documents", 96, 96)
    assert len(report.rows()) == 2
    assert len(report.notes()) == 3
