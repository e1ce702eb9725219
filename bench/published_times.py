"""The measured times that the capacity planner relies on.

Each one is published in docs/benchmarks.md, and a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedTime:
    """One measurement.

    Attributes:
        value: the measured value, as it is published.
        unit: unit of the value.
        section: heading in docs/benchmarks.md; it states command, machine and date.
        line: the line of that section that states the value.
    """

    value: float
    unit: str
    section: str
    line: str


SCORE = PublishedTime(
    1.26,
    "ms per query, one thread, 1,071,075 postings read",
    "Exact scoring on the CPU",
    "| **csplade** | 1.00 | 1.26 | 1.00 | 0.85 |",
)
SCORE_POSTINGS = 1_071_075
SCORE_DOCUMENTS, SCORE_MEAN_TERMS, SCORE_QUERY_TERMS = 300_000, 119, 43

ENCODE_QUERY = PublishedTime(
    0.2,
    "ms per query of 12 tokens, looked up in the table of the embedded model",
    "Encoding on the CPU",
    "| **csplade** | 1.00 | 35.6 | 0.2 |",
)
ENCODE_QUERY_TOKENS = 12
