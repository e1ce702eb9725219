"""Ray is told the same series as prometheus_client exposes for the same values."""

from typing import ClassVar

import pytest

ray_metrics = pytest.importorskip("csplade.service.ray.metrics", reason="Ray is not installed")

from csplade.service.telemetry.metrics import PrometheusInstruments  # noqa: E402


class Recorder:
    """Stands for the classes of ``ray.util.metrics``: remembers the latest value of each series."""

    series: ClassVar[dict[tuple[str, frozenset], float]] = {}

    def __init__(self, name, text, tag_keys=()) -> None:
        self.name, self.keys = name, set(tag_keys)

    def _key(self, tags):
        assert set(tags) == self.keys
        return self.name, frozenset(tags.items())

    def set(self, value, tags):
        self.series[self._key(tags)] = value

    def inc(self, value, tags):
        assert value > 0
        self.series[self._key(tags)] = self.series.get(self._key(tags), 0.0) + value


@pytest.fixture
def instruments(monkeypatch):
    monkeypatch.setattr(Recorder, "series", {})
    for kind in ("Counter", "Gauge"):
        monkeypatch.setattr(ray_metrics.metrics, kind, Recorder)
    monkeypatch.setattr(ray_metrics.threading.Thread, "start", lambda self: None)
    return ray_metrics.RayInstruments()


def record(make):
    requests = make.counter("c_total", "", "code")
    requests.labels("OK").inc()
    requests.labels("OK").inc(2)
    make.gauge("g", "").set(3)
    make.gauge_of("f", "", lambda: 7.0)
    seconds = make.histogram("h", "", (0.1, 1.0, 15e-6 * 1e6), "stage")
    for value in (0.05, 0.1, 0.5, 99.0):
        seconds.labels("score").observe(value)


def told(instruments):
    for metric in instruments._made:
        metric.export()
    return dict(Recorder.series)


def test_series_are_those_of_prometheus_client(instruments):
    record(instruments)
    prometheus = PrometheusInstruments()
    record(prometheus)
    expected = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in prometheus.registry.collect()
        for sample in metric.samples
        if not sample.name.startswith("process_")
    }
    assert told(instruments) == expected
    assert told(instruments) == expected  # told again, nothing is counted twice


def test_facts_move_from_one_series_to_the_next(instruments):
    info = instruments.info("model", "")
    info.info({"name": "a"})
    info.info({"name": "b"})
    assert told(instruments) == {
        ("model_info", frozenset({("name", "a")})): 0.0,
        ("model_info", frozenset({("name", "b")})): 1.0,
    }


def test_nothing_is_exported_while_ray_may_be_shutting_down(instruments, monkeypatch):
    """Else Ray would end the process."""
    turns = iter([None, None])

    def next_turn(_):
        next(turns)  # the last one ends the loop: StopIteration

    monkeypatch.setattr(ray_metrics.time, "sleep", next_turn)
    held = []
    monkeypatch.setattr(
        ray_metrics.ray,
        "is_initialized",
        lambda: held.append(ray_metrics.exporting.locked()) or True,
    )
    instruments.counter("c", "").inc()
    with pytest.raises(StopIteration):
        instruments._export_forever()
    assert held == [True, True]
    assert Recorder.series == {("c", frozenset()): 1.0}
    assert not ray_metrics.exporting.locked()
