"""Answer a file of queries over one stream, and write a TREC run.

The client sends queries as the service keeps up; answers come in the order of the queries. Needs
a running service, see ``search_service.py``.
"""

import json
import sys
from pathlib import Path

from csplade import Client

QUERIES = Path(__file__).parent / "queries.jsonl"


def main(output: str = "run.trec", target: str = "localhost:50051") -> None:
    """Write the 10 best passages of each example query."""
    queries = [json.loads(line) for line in QUERIES.read_text(encoding="utf-8").splitlines()]
    with Client(target) as client, open(output, "w", encoding="utf-8") as run:
        answers = client.search_many([query["text"] for query in queries], k=10)
        for query, answer in zip(queries, answers, strict=True):
            for rank, hit in enumerate(answer, 1):
                print(query["_id"], "Q0", hit.id, rank, hit.integer_score, "example", file=run)
    print(f"{output}: {len(queries)} queries")


if __name__ == "__main__":
    main(*sys.argv[1:])
