"""Generate the Python modules of ``csplade.v1``: ``python proto/generate.py [OUTPUT_DIRECTORY]``.

The output directory defaults to this folder, where the modules are committed. The version of the
generator (grpcio-tools) shows in the modules: use the one pinned in constraints.txt.
"""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent


def generate(output: Path) -> None:
    """Write ``csplade/v1/*_pb2.py``, ``*_pb2.pyi`` and, of services, ``*_pb2_grpc.py``."""
    output.mkdir(parents=True, exist_ok=True)
    for source in sorted(ROOT.glob("csplade/**/*.proto")):
        serves = "\nservice " in source.read_text(encoding="utf-8")
        status = protoc.main([
            "protoc",
            f"--proto_path={ROOT}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--python_out={output}",
            f"--pyi_out={output}",
            *([f"--grpc_python_out={output}"] if serves else []),
            str(source.relative_to(ROOT)),
        ])  # fmt: skip
        if status:
            sys.exit(status)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
