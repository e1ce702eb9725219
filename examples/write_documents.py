"""Write documents to a running service, find them at once, change them, and delete them.

Start one with ``csplade serve my-index --writable``, then run
``python examples/write_documents.py``.
"""

import sys

from csplade import Client, Document

PASSAGE = Document(
    "lighthouse",
    "The last keeper of the Skerry lighthouse left in 1987, when an automatic lamp took over.",
    title="The last lighthouse keeper",
    metadata={"year": 1987},
)


def main(target: str = "localhost:50051") -> None:
    """Print what each write did, and what a search finds after it."""
    with Client(target) as client:
        (written,) = client.upsert([PASSAGE])
        print(written.status, "as version", written.version)

        # The service encoded the text. Later searches see it, also on other connections.
        answer = client.search("who kept the lighthouse", k=client.count())
        print("found:", "lighthouse" in [hit.id for hit in answer])

        # The same text with other metadata is not encoded again.
        moved = Document(PASSAGE.id, PASSAGE.text, PASSAGE.title, {"year": 1988})
        (updated,) = client.upsert([moved], if_version=written.version)
        print(updated.status, "to", client.get(["lighthouse"])[0].document.metadata)

        # Somebody else may have written meanwhile: a write with an old version fails.
        (late,) = client.upsert([PASSAGE], if_version=written.version)
        print(late.status, late.error.code)

        (deleted,) = client.delete(["lighthouse"])
        print(deleted.status, client.get(["lighthouse"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
