"""The same rules and dashboards where Ray exports the metrics: its nodes found by the file that it
writes itself.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from .conftest import busy_until, started
from .test_dashboards import QUERIES
from .test_prometheus import NEEDS_GPU, RECORDS

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Of a process that answers /metrics itself; Ray tells of its processes under names of its own.
# Documents are written in a single process alone.
SINGLE_ONLY = re.compile(
    r"process_|csplade_(write|commit|compactions|tail_documents|deleted_documents|generation)"
)

# Ray cannot be started twice in a process, and other tests start it too.
SERVICE = """
import sys
from csplade.service import settings as config
from csplade.service.ray.cluster import cluster, free_port, run
flags = dict(zip(("index", "model.path"), sys.argv[1:3]))
settings = config.load(None, flags | {"server.port": 0, "scoring.threads": 1, "model.threads": 1})
ray = {"include_dashboard": True, "dashboard_port": free_port(), "_temp_dir": sys.argv[3]}
with cluster(settings.server, **ray) as address:
    run(settings, address)
    print(address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def watched(example_index, tiny_model, tmp_path_factory):
    """Address of a service on Ray, and the Prometheus that watches it."""
    ray = Path(tempfile.mkdtemp(prefix="ray-"))  # short, for sockets
    command = [sys.executable, "-c", SERVICE, str(example_index), str(tiny_model), str(ray)]
    # A cluster of this process, if there is one, has left its ports there.
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = own | {"RAY_metrics_report_interval_ms": "1000"}
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("w") as errors:
        service = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            address = service.stdout.readline().strip()
            assert address, log.read_text()
            discovery = ray / "prom_metrics_service_discovery.json"
            assert json.loads(discovery.read_text())
            with started(tmp_path_factory.mktemp("prometheus"), [], discovery) as prometheus:
                yield address, prometheus
        finally:
            service.stdin.close()
            service.wait(120)
            shutil.rmtree(ray, ignore_errors=True)


def test_rules_and_dashboards_have_data_on_ray_too(watched):
    address, prometheus = watched
    wanted = QUERIES | {name: name for name in RECORDS.keys() - NEEDS_GPU}
    shown = {name: query for name, query in wanted.items() if not SINGLE_ONLY.search(query)}
    assert busy_until(address, prometheus, shown) == []


def test_series_have_the_names_and_labels_of_a_single_process(watched):
    address, prometheus = watched
    query = 'csplade_stage_seconds_bucket{stage="score"}'
    assert busy_until(address, prometheus, {"score": query}) == []
    (series, *_) = prometheus.ask("query", query=query)["data"]["result"]
    labels = series["metric"]
    assert labels["job"] == "csplade-ray"
    assert {"le", "stage"} <= labels.keys()
    assert not [name for name in labels if name.startswith("otel_") or name == "SessionName"]


def test_metrics_have_the_same_names_in_both_modes(watched, prometheus, eventually):
    address, of_ray = watched
    last = {"last": "csplade_truncated_total"}
    assert busy_until(address, of_ray, last) == []
    assert eventually(last) == []

    def names(one) -> set[str]:
        found = one.ask("label/__name__/values")["data"]
        return {name for name in found if name.startswith(("csplade_", "ray_csplade_"))}

    # On Ray a counter has no series before it counts.
    missing = {one for one in names(prometheus) - names(of_ray) if not SINGLE_ONLY.search(one)}
    assert missing == {
        "csplade_verify_mismatches_total",
        "csplade_filter_cache_hits_total",
        "csplade_filter_cache_misses_total",
    }
    assert names(of_ray) <= names(prometheus)
