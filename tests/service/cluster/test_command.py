"""``csplade serve --ray`` as a process: its address line, its answers, and what SIGTERM leaves behind."""

import signal
import subprocess
import sys

import psutil
import pytest

from csplade.service.client import Client

COMMAND = [sys.executable, "-c", "from csplade.cli.main import main; main()", "serve"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_index_of_two_shards_is_served_until_sigterm(first, tmp_path):
    options = ("--ray", "--port", "0", "--threads", "1", "--device", "cpu")
    with (tmp_path / "errors").open("w+") as errors:
        served = subprocess.Popen(
            [*COMMAND, str(first.index), *options], text=True, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            address = served.stdout.readline().strip()
            children = psutil.Process(served.pid).children(recursive=True)
            with Client(address, timeout=60) as client:
                for query, truth in first.truth.items():
                    assert [(hit.id, hit.integer_score) for hit in client.search(query)] == truth
            served.send_signal(signal.SIGTERM)
            assert served.wait(120) == 0
            _, alive = psutil.wait_procs(children, timeout=30)
            assert not alive
        finally:
            served.kill()
            served.communicate()
        errors.seek(0)
        assert "Traceback" not in errors.read()
