"""The launcher compiled with the image loads beside a driver, whatever the linker's defaults."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LOADER = Path(__file__).with_name("load_beside_driver.py")
SCRIPT = Path(__file__).parents[2] / "deploy" / "image" / "triton_driver.py"

pytest.importorskip("triton")
if shutil.which("gcc") is None or shutil.which("readelf") is None:
    pytest.skip("gcc and readelf are not installed", allow_module_level=True)


@pytest.fixture(params=["--no-as-needed", "--as-needed"])
def module(request, tmp_path) -> Path:
    """Compile the module with a linker that keeps unneeded libraries, or drops them as Ubuntu's."""
    (tmp_path / "bin").mkdir()
    gcc = tmp_path / "bin" / "gcc"
    gcc.write_text(f'#!/bin/sh\nexec {shutil.which("gcc")} -Wl,{request.param} "$@"\n')
    gcc.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{gcc.parent}:{os.environ['PATH']}",
        "TRITON_CACHE_DIR": str(tmp_path / "cache"),
    }
    environment.pop("CC", None)
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.split()[-1])


def test_the_module_loads_beside_a_driver(module):
    loaded = subprocess.run([sys.executable, LOADER, module], capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
