"""The launcher compiled with the image loads beside a driver, whatever the linker's defaults."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_module_loads_beside_a_driver(module, tmp_path):
    symbols = subprocess.run(
        ["nm", "--dynamic", "--undefined-only", module], capture_output=True, text=True, check=True
    ).stdout
    functions = re.findall(r" U (cu\w+)", symbols)
    assert "cuModuleGetFunction" in functions
    source = "".join(f"int {name}(void) {{ return 1; }}\n" for name in functions)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", tmp_path / "libcuda.so.1"],
        input=source, text=True, check=True,
    )  # fmt: skip
    code = (
        "import sys; from importlib.util import module_from_spec, spec_from_file_location as spec;"
        "found = spec('cuda_utils', sys.argv[1]); module_from_spec(found)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code, module],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert loaded.returncode == 0, loaded.stderr
