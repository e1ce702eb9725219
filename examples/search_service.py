"""Search a running service, and show the terms that made each score.

Start one with ``csplade serve my-index``, then run
``python examples/search_service.py "can the police question me without a lawyer"``.
"""

import sys

from csplade import Client


def main(question: str = "why do cats purr", target: str = "localhost:50051") -> None:
    """Print the best passages of a question."""
    with Client(target) as client:
        answer = client.search(question, k=5, explain=True, with_document=True)
        for hit in answer:
            terms = ", ".join(f"{one.token} {one.score:.2f}" for one in hit.contributions[:5])
            print(f"{hit.score:.2f}  {hit.document.title}  ({terms})")
    print(f"{answer.matched} passages match, {answer.postings} postings read")


if __name__ == "__main__":
    main(*sys.argv[1:])
