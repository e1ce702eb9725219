"""The end of a cluster in the process that started it."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow

# References in a cycle that nobody has collected yet, and a thread that does so while Ray is shut
# down.
FORGOTTEN = """
import gc, threading, time
import ray
from csplade.service.ray.cluster import _shut_ray_down

ray.init(
    address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=40
)
gc.disable()
for number in range(20):
    cycle = [ray.put(number)]
    cycle.append(cycle)
del cycle

def collect():
    time.sleep(0.15)  # when Ray's worker has ended, and the rest of the cluster not yet
    gc.collect()

def shut_down(real=ray.shutdown):
    threading.Thread(target=collect, daemon=True).start()
    real()

ray.shutdown = shut_down
_shut_ray_down()
print("alive")
"""


def test_forgotten_references_do_not_end_the_process():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ended = subprocess.run(
        [sys.executable, "-c", FORGOTTEN], env=environment | {"RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.stdout.strip() == "alive", ended.stderr[-1000:]
