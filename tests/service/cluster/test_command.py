"""``csplade serve --ray`` as a process: its address line, its answers, and what SIGTERM leaves
behind.
"""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest

from csplade.client.client import Client
from csplade.service.ray.cluster import free_port

from .processes import open_ports

COMMAND = [sys.executable, "-c", "from csplade.cli.main import main; main()", "serve"]


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        return page.read().decode()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_index_of_two_shards_is_served_until_sigterm(first, tmp_path):
    metrics = free_port()
    options = (
        "--ray",
        "--port",
        "0",
        "--metrics-port",
        str(metrics),
        "--threads",
        "1",
        "--device",
        "cpu",
    )
    # The cluster of the other tests has its ports in this process's environment.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["RAY_metrics_report_interval_ms"] = "1000"
    with (tmp_path / "errors").open("w+") as errors:
        served = subprocess.Popen(
            [*COMMAND, str(first.index), *options],
            text=True,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
        )
        try:
            address = served.stdout.readline().strip()
            assert address.startswith("127.0.0.1:"), (tmp_path / "errors").read_text()
            children = psutil.Process(served.pid).children(recursive=True)
            assert open_ports(psutil.Process(served.pid)) == {}
            with Client(address, timeout=60) as client:
                for query, truth in first.truth.items():
                    assert [(hit.id, hit.integer_score) for hit in client.search(query)] == truth
            answered = f'ray_csplade_requests_total{{.*method="Search".*}} {len(first.truth)}'
            while not re.search(answered, scraped(metrics)):  # they are told every few seconds
                time.sleep(0.5)
            served.send_signal(signal.SIGTERM)
            assert served.wait(120) == 0
            _, alive = psutil.wait_procs(children, timeout=30)
            assert not alive
        finally:
            served.kill()
            served.communicate()
        errors.seek(0)
        assert "Traceback" not in errors.read()
