"""Load a compiled module beside a stand-in for the driver: ``python load_beside_driver.py MODULE``.

The stand-in defines every function of the driver that the module needs. The linker finds it by its
name, as it would find the real one, and fails if the module does not ask for it.
"""

import ctypes
import re
import subprocess
import sys
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def needed_functions(module: str) -> list[str]:
    listed = subprocess.run(
        ["nm", "--dynamic", "--undefined-only", module], capture_output=True, text=True, check=True
    )
    return re.findall(r" U (cu\w+)", listed.stdout)


def stand_in(functions: list[str], folder: str) -> Path:
    library = Path(folder) / "libcuda.so.1"
    source = "".join(f"int {name}(void) {{ return 1; }}\n" for name in functions)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-x", "c", "-", "-o", library],
        input=source, text=True, check=True,
    )  # fmt: skip
    return library


if __name__ == "__main__":
    functions = needed_functions(sys.argv[1])
    assert "cuModuleGetFunction" in functions, functions
    with tempfile.TemporaryDirectory() as folder:
        ctypes.CDLL(str(stand_in(functions, folder)), mode=ctypes.RTLD_LOCAL)
        module_from_spec(spec_from_file_location("cuda_utils", sys.argv[1]))
    print(f"loaded with {len(functions)} functions")
