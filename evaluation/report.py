"""What an evaluation found, as a table for people or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.stages import STAGES
from .measures import MEASURES

COLUMNS = (*STAGES, "total")


@dataclass(frozen=True)
class Row:
    """One system on one collection; None is not known or has no meaning for it.

    Attributes:
        name: of the system.
        measures: measure -> mean over all judged queries.
        query_terms: mean active terms per query, as scored.
        document_terms: mean active terms per document.
        flops: expected overlap of a query with a document: sum over terms j of p_query(j) *
            p_document(j), p being the share of queries or documents in which j is active. It equals
            the mean of the postings read per query over the number of documents.
        bytes_per_document: of the index's segments (texts in the document store come on top).
        documents_per_second: how quickly documents of this collection are encoded, or for BM25
            indexed.
        milliseconds: stage -> median over queries, asked one at a time; "total" as the caller
            waits.
        cut: what caps cut from the queries in all: tokens, terms, impacts.
        own_hits: hits with the query's own id, which were left out.
        without_ranking: judged queries without a hit; they count as 0.
    """

    name: str
    measures: dict[str, float]
    query_terms: float | None = None
    document_terms: float | None = None
    flops: float | None = None
    bytes_per_document: float | None = None
    documents_per_second: float | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    own_hits: int = 0
    without_ranking: int = 0


_COLUMNS: tuple[tuple[str, Callable[[Row], float | None], str], ...] = (
    ("query terms", lambda row: row.query_terms, ",.1f"),
    ("doc terms", lambda row: row.document_terms, ",.1f"),
    ("FLOPS", lambda row: row.flops, ",.3f"),
    ("bytes/doc", lambda row: row.bytes_per_document, ",.0f"),
    ("docs/s", lambda row: row.documents_per_second, ",.1f"),
    ("p50 ms", lambda row: row.milliseconds.get("total"), ",.2f"),
)


def quality_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells: a row per system, measures first, what is known of cost after."""
    headers = ["system", *MEASURES, *(name for name, _, _ in _COLUMNS)]
    cells = [
        [row.name]
        + [f"{row.measures[measure]:.4f}" for measure in MEASURES]
        + [_cell(value(row), form) for _, value, form in _COLUMNS]
        for row in rows
    ]
    return headers, cells


def latency_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return headers and cells: median milliseconds of each stage, a row for each system."""
    stages = [stage for stage in COLUMNS if any(stage in row.milliseconds for row in rows)]
    timed = [row for row in rows if len(row.milliseconds) > 1]
    return ["p50 ms", *stages], [
        [row.name, *(_cell(row.milliseconds.get(stage), ".3f") for stage in stages)]
        for row in timed
    ]


def to_json(dataset: str, split: str, queries: int, rows: Sequence[Row]) -> dict[str, Any]:
    """The same as plain values, unrounded."""
    return {
        "dataset": dataset,
        "split": split,
        "queries": queries,
        "systems": [dict(vars(row)) for row in rows],
    }


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
