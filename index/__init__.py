"""Floor 2: sparse vectors in, ranked ordinals out.

Names load on first use: building needs no compiled scorer.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .maintenance import VerifyReport
    from .read.reader import Index, SearchResult
    from .storage.manifest import IndexManifest
    from .write.build import IndexBuilder, repair

__all__ = [
    "Index",
    "IndexBuilder",
    "IndexManifest",
    "SearchResult",
    "VerifyReport",
    "repair",
]

_HOMES = {
    "Index": ".read.reader",
    "IndexBuilder": ".write.build",
    "IndexManifest": ".storage.manifest",
    "SearchResult": ".read.reader",
    "VerifyReport": ".maintenance",
    "repair": ".write.build",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
