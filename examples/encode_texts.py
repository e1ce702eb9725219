"""Turn texts into sparse vectors in this process, without a service.

The names are those of sentence-transformers' SparseEncoder. A model is ``embedded``, a directory
or a hub id.
"""

import sys

from csplade import Encoder

PASSAGES = [
    "Cats purr by twitching the muscles of the larynx.",
    "Bread rises when yeast turns sugar into gas.",
]


def main(model: str = "embedded") -> None:
    """Print the largest terms of two passages, and the score of a query with each."""
    encoder = Encoder.from_pretrained(model)
    documents = encoder.encode_document(PASSAGES)
    query = dict(zip(*encoder.encode_query(["why do cats purr"]).row(0), strict=True))
    for passage, terms, (ids, weights) in zip(
        PASSAGES, encoder.decode(documents, top_k=8), documents, strict=True
    ):
        score = sum(
            query.get(term, 0.0) * weight for term, weight in zip(ids, weights, strict=True)
        )
        print(f"{score:.2f}  {passage}")
        print("      " + ", ".join(f"{token} {weight:.2f}" for token, weight in terms))


if __name__ == "__main__":
    main(*sys.argv[1:])
