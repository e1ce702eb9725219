"""Sparse vectors in, ranked documents out. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .maintenance import VerifyReport, describe, repair, verify
    from .read.reader import Index
    from .read.searcher import Mask, Searcher, SearchResult, Selection
    from .read.snapshot import Snapshot
    from .read.statistics import TermStatistics
    from .storage.manifest import IndexManifest
    from .write.build import BuildOptions, IndexBuilder
    from .write.fields import declare_field, drop_field
    from .write.operations import Upsert
    from .write.writer import IndexWriter, WriterStats

__all__ = [
    "BuildOptions",
    "Index",
    "IndexBuilder",
    "IndexManifest",
    "IndexWriter",
    "Mask",
    "SearchResult",
    "Searcher",
    "Selection",
    "Snapshot",
    "TermStatistics",
    "Upsert",
    "VerifyReport",
    "WriterStats",
    "declare_field",
    "describe",
    "drop_field",
    "repair",
    "verify",
]

_MODULES = {
    "BuildOptions": ".write.build",
    "Index": ".read.reader",
    "IndexBuilder": ".write.build",
    "IndexManifest": ".storage.manifest",
    "IndexWriter": ".write.writer",
    "Mask": ".read.searcher",
    "SearchResult": ".read.searcher",
    "Searcher": ".read.searcher",
    "Selection": ".read.searcher",
    "Snapshot": ".read.snapshot",
    "TermStatistics": ".read.statistics",
    "Upsert": ".write.operations",
    "VerifyReport": ".maintenance",
    "WriterStats": ".write.writer",
    "declare_field": ".write.fields",
    "describe": ".maintenance",
    "drop_field": ".write.fields",
    "repair": ".maintenance",
    "verify": ".maintenance",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
