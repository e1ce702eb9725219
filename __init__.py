"""csplade: learned sparse retrieval with causal language models, exact and explained.

The public names are loaded on first use, so that ``from csplade import Client`` needs only grpcio
and protobuf, and the fusion of rankings nothing at all.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.async_client import AsyncClient
    from .client.client import Client
    from .client.connection import ServiceError
    from .core.document import Document
    from .core.fusion import reciprocal_rank_fusion, weighted_sum
    from .engine.collection import Collection
    from .index import Index
    from .model import Encoder

__version__ = "0.1.0"
__all__ = [
    "AsyncClient",
    "Client",
    "Collection",
    "Document",
    "Encoder",
    "Index",
    "ServiceError",
    "reciprocal_rank_fusion",
    "weighted_sum",
]

_HOMES = {
    "AsyncClient": ".client.async_client",
    "Client": ".client.client",
    "ServiceError": ".client.connection",
    "Document": ".core.document",
    "reciprocal_rank_fusion": ".core.fusion",
    "weighted_sum": ".core.fusion",
    "Encoder": ".model",
    "Collection": ".engine.collection",
    "Index": ".index",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
