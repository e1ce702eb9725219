"""Compile the C module that Triton launches kernels with, so that the image needs no compiler.

Run while the image is built: gcc is there, the driver (``libcuda.so.1``) is not, so a stub without
symbols stands for it. Triton finds the module in its cache (``TRITON_CACHE_DIR``) by the hash of
its source.
"""

from __future__ import annotations

import os
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

LIBRARY = "libcuda.so.1"


def compile_module() -> None:
    """Compile the module into Triton's cache, linked to the driver's library by its name."""
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(
            [
                "gcc", "-shared", "-x", "c", "/dev/null",
                f"-Wl,-soname,{LIBRARY}", "-o", f"{work}/{LIBRARY}",
            ],
            check=True,
        )  # fmt: skip
        # The stub defines nothing, so a linker that drops what is not needed (Ubuntu's default)
        # would drop it, and the module would find no symbol of the real driver.
        compiler = Path(work) / "cc"
        compiler.write_text('#!/bin/sh\nexec gcc -Wl,--no-as-needed "$@"\n')
        compiler.chmod(0o755)
        os.environ["CC"] = str(compiler)
        knobs.nvidia.libcuda_path = work
        with suppress(ImportError):  # compiled and kept, but not to be loaded without the driver
            driver.CudaUtils()


def check_module() -> Path:
    """Return the compiled module; exit unless there is one and it needs the driver's library."""
    cache = Path(knobs.cache.dir)
    modules = list(cache.glob("*/cuda_utils*.so"))
    if len(modules) != 1:
        sys.exit(f"{cache}: 1 cuda_utils*.so must be there, found {len(modules)}")
    listed = subprocess.run(
        ["readelf", "--dynamic", modules[0]], capture_output=True, text=True, check=True
    )
    if f"[{LIBRARY}]" not in listed.stdout:
        sys.exit(f"{modules[0]}: does not need {LIBRARY}, so it cannot find the driver's functions")
    return modules[0]


if __name__ == "__main__":
    compile_module()
    print(check_module())
