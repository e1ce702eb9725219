"""What was measured, for the planner. Each figure stands in docs/benchmarks.md; a test compares the
two.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        value: as the line tells it.
        unit: of the value.
        section: heading in docs/benchmarks.md; command, machine and date stand there.
        line: the line of that section that tells it.
    """

    value: float
    unit: str
    section: str
    line: str


SCORE = Figure(
    1.26,
    "ms a query, one thread, 1,071,075 postings read",
    "Exact scoring on the CPU",
    "| **csplade** | 1.00 | 1.26 | 1.00 | 0.85 |",
)
SCORE_POSTINGS = 1_071_075
SCORE_DOCUMENTS, SCORE_MEAN_TERMS, SCORE_QUERY_TERMS = 300_000, 119, 43

ENCODE_QUERY = Figure(
    0.2,
    "ms a query of 12 tokens, looked up in the embedded model's table",
    "Encoding on the CPU",
    "| **csplade** | 1.00 | 35.6 | 0.2 |",
)
ENCODE_QUERY_TOKENS = 12
