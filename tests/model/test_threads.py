"""Threads that wait leave their core to others."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("set_by_the_user", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_openmp_waits_passively_unless_told_otherwise(set_by_the_user, policy):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if set_by_the_user:
        environment["OMP_WAIT_POLICY"] = set_by_the_user
    done = subprocess.run(
        [sys.executable, "-c", "import csplade.service.grpc.server, csplade.model.tensors"],
        env=environment | {"OMP_DISPLAY_ENV": "TRUE"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr
