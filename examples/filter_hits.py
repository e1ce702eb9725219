"""Declare fields of the metadata, and search among the documents that a filter holds for.

No model is loaded. A service takes the same filter: ``client.search(query, filter=FILTER)``,
``{"query": ..., "filter": {...}}`` over HTTP, ``csplade search INDEX TEXT --filter '{...}'``.
"""

import json
import tempfile
from pathlib import Path

from csplade import Collection
from csplade.core.filters import Filter
from csplade.core.vectors import SparseBatch
from csplade.ingest.build import build_from_vectors

FIELDS = {"language": "keyword", "year": "integer"}
BOOKS = [
    {"id": "birds", "language": "en", "year": 1999, "vector": {"0": 2.0, "1": 0.5}},
    {"id": "vögel", "language": "de", "year": 2004, "vector": {"0": 1.5}},
    {"id": "flight", "language": ["en", "fr"], "year": 2011, "vector": {"0": 1.0, "2": 1.0}},
    {"id": "undated", "language": "en", "vector": {"0": 0.5}},
]
FILTER = {
    "must": [{"field": "language", "match": {"any": ["en"]}}],
    "must_not": [{"field": "year", "range": {"lt": 2000}}],
}


def main() -> None:
    """Print the books of a term, all of them and those that the filter holds for."""
    query = SparseBatch.from_rows([([0], [1.0])])
    with tempfile.TemporaryDirectory() as directory:
        file, index = Path(directory) / "books.jsonl", Path(directory) / "index"
        file.write_text("".join(json.dumps(book) + "\n" for book in BOOKS), encoding="utf-8")
        build_from_vectors(file, index, fields=FIELDS)
        with Collection.open(index) as collection:
            for filter in (None, Filter.parse(FILTER)):
                answer = collection.search(query, k=10, filter=filter)[0]
                print(f"{answer.matched} match: {', '.join(hit.id for hit in answer)}")


if __name__ == "__main__":
    main()
