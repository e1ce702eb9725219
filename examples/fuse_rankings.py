"""Fuse the hits of a service with a second ranking of one's own: hybrid retrieval.

The second ranking here counts shared words; any system will do. Needs a running service, see
``search_service.py``.
"""

import json
import re
import sys
from pathlib import Path

from csplade import Client, reciprocal_rank_fusion, weighted_sum

CORPUS = Path(__file__).parent / "corpus.jsonl"


def words_of(text: str) -> set[str]:
    """Return the distinct words of a text."""
    return set(re.findall(r"[a-z]+", text.lower()))


def count_shared_words(question: str) -> dict[str, int]:
    """Return passage -> words that it shares with the question, the 20 best first."""
    passages = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
    asked = words_of(question)
    counts = {one["_id"]: len(asked & words_of(one["title"] + one["text"])) for one in passages}
    return dict(sorted(counts.items(), key=lambda item: -item[1])[:20])


def main(question: str = "airline lost my bags", target: str = "localhost:50051") -> None:
    """Print the three best passages by ranks, and by scores."""
    with Client(target) as client:
        ours = {hit.id: hit.score for hit in client.search(question, k=20)}
    theirs = count_shared_words(question)
    by_rank = reciprocal_rank_fusion([list(ours), list(theirs)])
    by_score = weighted_sum([ours, theirs], [0.7, 0.3])
    for name, fused in [("by ranks", by_rank), ("by scores", by_score)]:
        shown = ", ".join(f"{document} {score:.3f}" for document, score in fused[:3])
        print(f"{name}: {shown}")


if __name__ == "__main__":
    main(*sys.argv[1:])
