import subprocess
import sys

PROGRAM = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

BLOCKED = set(%r)
sys.meta_path.insert(0, Blocked())
from csplade import Client, reciprocal_rank_fusion, weighted_sum
from csplade.client.async_client import AsyncClient
from csplade.client.connection import ServiceError
with Client("127.0.0.1:1", timeout=5) as client:
    try:
        client.search("text")
    except ServiceError as error:
        print(error.code)
print(reciprocal_rank_fusion([["a"]], 1), weighted_sum([{"a": 3.0}], [0.5]))
print(sorted(BLOCKED & {name.partition(".")[0] for name in sys.modules}))
"""

NOT_NEEDED = [
    "accelerate",
    "bitsandbytes",
    "gguf",
    "grpc_health",
    "grpc_reflection",
    "grpc_tools",
    "numba",
    "numpy",
    "peft",
    "prometheus_client",
    "pydantic",
    "pydantic_settings",
    "pytrec_eval",
    "rich",
    "safetensors",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
    "typer",
    "yaml",
]


def test_the_client_needs_only_grpcio_and_protobuf():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM % (NOT_NEEDED,)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    fused = "[('a', 0.5)] [('a', 0.5)]"
    assert done.stdout.splitlines() == ["UNAVAILABLE", fused, "[]"], done.stderr
