"""csplade: learned sparse retrieval with causal language models, exact and explained.

The public names are loaded on first use, so that ``from csplade import Client`` needs only grpcio
and protobuf.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.client import Client
    from .engine.collection import Collection
    from .index import Index
    from .model import Encoder

__version__ = "0.1.0"
__all__ = ["Client", "Collection", "Encoder", "Index"]

_HOMES = {
    "Client": ".client.client",
    "Encoder": ".model",
    "Collection": ".engine.collection",
    "Index": ".index",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
