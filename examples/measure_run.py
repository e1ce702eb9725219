"""Measure the ranking quality of a TREC run on a collection in BEIR's layout.

``csplade evaluate`` does the same from the command line, for runs, indexes and services.
"""

import sys
from pathlib import Path

from csplade.core.beir import load_dataset
from csplade.evaluation.measures import measure
from csplade.ingest.trec import read_run

EXAMPLES = Path(__file__).parent


def main(run: str = "run.trec", folder: str | Path = EXAMPLES) -> None:
    """Print nDCG@10 and other measures; ``search_many.py`` writes such a run."""
    dataset = load_dataset(folder)
    values = measure(dataset.qrels, read_run(run).rankings)
    print(", ".join(f"{name} {value:.4f}" for name, value in values.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
