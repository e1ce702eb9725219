"""Compiles the one C module that Triton needs to launch kernels, so that the image itself needs no
compiler.

Run while the image is built: gcc is there, the driver (``libcuda.so.1``) is not, so an empty
library stands for it. Triton finds the module in its cache (``TRITON_CACHE_DIR``) later, by the
hash of its source.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

try:
    from triton import knobs
    from triton.backends.nvidia import driver
except ModuleNotFoundError:
    sys.exit(0)  # a build of torch for the CPU brings no Triton

with tempfile.TemporaryDirectory() as stub:
    subprocess.run(
        ["gcc", "-shared", "-x", "c", "/dev/null", "-o", f"{stub}/libcuda.so.1"], check=True
    )
    knobs.nvidia.libcuda_path = stub
    with suppress(ImportError):  # compiled and kept, but not to be loaded without the driver
        driver.CudaUtils()

cache = Path(knobs.cache.dir)
modules = list(cache.glob("*/cuda_utils*.so"))
if len(modules) != 1:
    sys.exit(f"{cache}: 1 cuda_utils*.so must be there, found {len(modules)}")
print(modules[0])
