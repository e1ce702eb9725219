"""Index vectors of any encoder, and search with a vector; no model is loaded.

Terms are token strings or integer ids. Scores are sums of integers, so they are exact and equal on
every machine.
"""

import json
import tempfile
from pathlib import Path

from csplade import Collection
from csplade.core.vectors import SparseBatch
from csplade.ingest.build import build_from_vectors

VECTORS = {
    "cats": {"cat": 2.1, "purr": 1.8, "animal": 0.7},
    "bread": {"bread": 2.4, "yeast": 1.9, "rise": 0.9},
    "dogs": {"dog": 2.2, "animal": 0.8},
}
QUERY = {"animal": 1.0, "purr": 0.5}


def main() -> None:
    """Index three vectors and print the ranking of a fourth."""
    with tempfile.TemporaryDirectory() as directory:
        file, index = Path(directory) / "vectors.jsonl", Path(directory) / "index"
        lines = [{"id": name, "vector": vector} for name, vector in VECTORS.items()]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        manifest = build_from_vectors(file, index).manifest
        places = {token: term for term, token in enumerate(manifest.vocabulary)}
        terms = sorted((places[token], weight) for token, weight in QUERY.items())
        query = SparseBatch.from_rows([tuple(zip(*terms, strict=True))])
        with Collection.open(index) as collection:
            for hit in collection.search(query, k=3)[0].hits:
                print(f"{hit.score:.2f}  {hit.id}")


if __name__ == "__main__":
    main()
