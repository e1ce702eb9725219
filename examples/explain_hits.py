"""Show that the contributions of a hit's terms sum exactly to its score.

Scores are integers; ``answer.score_scale`` turns them into the floats that a user sees. Needs a
running service, see ``search_service.py``.
"""

import sys

from csplade import Client


def main(question: str = "why do cats purr", target: str = "localhost:50051") -> None:
    """Print the share of each term of the best hit, then compare with the reference."""
    with Client(target) as client:
        answer = client.search(question, k=1, explain=True)
        for hit in answer:
            for one in hit.contributions:
                print(
                    f"{one.token:>12}  {one.query_impact} x {one.document_impact} = {one.product}"
                )
            total = sum(one.product for one in hit.contributions)
            assert total == hit.integer_score
            print(f"{'sum':>12}  {total}, as a float {total * answer.score_scale:.4f}")
        verified = client.verify(question, k=100)
        print(f"{verified.compared} ranks compared with the reference: {verified.identical=}")


if __name__ == "__main__":
    main(*sys.argv[1:])
