"""Floor 2: sparse vectors in, ranked ordinals out.

Names load on first use: building needs no compiled scorer.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .builder import IndexBuilder, repair
    from .index import Index, SearchResult
    from .manifest import IndexManifest
    from .store import Document
    from .verify import VerifyReport

__all__ = [
    "Document",
    "Index",
    "IndexBuilder",
    "IndexManifest",
    "SearchResult",
    "VerifyReport",
    "repair",
]

_HOMES = {
    "Document": ".store",
    "Index": ".index",
    "IndexBuilder": ".builder",
    "IndexManifest": ".manifest",
    "SearchResult": ".index",
    "VerifyReport": ".verify",
    "repair": ".builder",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
