"""Index a corpus with an encoder, and search it in this process, without a service."""

import sys
import tempfile
from pathlib import Path

from csplade import Collection, Encoder
from csplade.ingest.build import build_from_corpus

CORPUS = Path(__file__).parent / "corpus.jsonl"


def main(model: str = "embedded") -> None:
    """Index the example passages and print the best ones of a question."""
    with tempfile.TemporaryDirectory() as directory:
        index = Path(directory) / "index"
        report = build_from_corpus(CORPUS, index, Encoder.from_pretrained(model))
        print(f"{report.manifest.documents} passages, {report.manifest.postings} postings")
        with Collection.open(index) as collection:
            for hit in collection.search(["why do cats purr"], k=5)[0].hits:
                print(f"{hit.score:.2f}  {hit.document.title}")


if __name__ == "__main__":
    main(*sys.argv[1:])
