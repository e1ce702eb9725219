"""A quantization report for people: Markdown tables and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.errors import InputError, UnavailableError
from .quantize_report import QuantizeReport, Row

FORMATS = (".svg", ".png")


def markdown(report: QuantizeReport) -> str:
    """Two tables: each encoder precision with float weights, then nDCG@10 and overlap at each
    impact precision.
    """
    pool = (
        ""
        if report.documents == report.corpus
        else f" of {report.corpus:,}, judged ones and a sample,"
    )
    threads = f", {report.threads} threads" if report.threads else ""
    lines = [
        f"{report.model} (fingerprint {report.fingerprint[:12]}) on {report.dataset}: "
        f"{report.documents:,} documents{pool} "
        f"{report.queries} queries; {report.device}{threads}.",
        "",
        *_table(
            [
                "encoder",
                "nDCG@10",
                "overlap@10",
                "cosine",
                "docs/s",
                "query p50 ms",
                "weights MB",
                "peak MB",
            ],
            [_cost_cells(report, row) for row in report.rows],
        ),
        "",
        "nDCG@10 (overlap@10 with the float32 encoder and float weights) by document impacts; "
        "queries have 12 bits:",
        "",
        *_table(
            ["encoder", *report.impacts],
            [
                [
                    row.precision.name,
                    *(f"{q.ndcg:.4f} ({q.overlap:.3f})" for q in row.qualities.values()),
                ]
                for row in report.rows
                if row.cost
            ],
        ),
    ]
    clipped = {
        name: max(row.qualities[name].clipped for row in report.rows if row.cost)
        for name in report.impacts
    }
    notes = [
        f"{name}: up to {count:,} document impacts clipped."
        for name, count in clipped.items()
        if count
    ]
    notes += [
        f"{row.precision.name}: not measured: {row.reason}" for row in report.rows if not row.cost
    ]
    return "\n".join([*lines, *(["", *(f"- {note}" for note in notes)] if notes else [])])


def require_plotting(path: Path) -> Any:
    """matplotlib, or why a plot cannot be drawn; to be asked before hours of measuring.

    Raises:
        InputError: another format than SVG or PNG.
        UnavailableError: matplotlib is not installed.
    """
    if path.suffix not in FORMATS:
        raise InputError(f"plot is {path}, must end in {' or '.join(FORMATS)}")
    try:
        import matplotlib
    except ImportError:
        raise UnavailableError("a plot needs matplotlib: pip install 'csplade[report]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot(report: QuantizeReport, path: Path) -> None:
    """Draw nDCG@10 against the size of the weights, and against the impact precision."""
    pyplot = require_plotting(path)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for row in report.rows:
        if row.cost is None:
            continue
        values = [quality.ndcg for quality in row.qualities.values()]
        (point,) = left.plot(row.cost.weight_bytes / 1e6, values[0], "o")
        left.annotate(
            row.precision.name,
            (row.cost.weight_bytes / 1e6, values[0]),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8,
        )
        style = "--" if row.precision.head else "-"
        right.plot(
            range(len(values)),
            values,
            style,
            marker=".",
            color=point.get_color(),
            label=row.precision.name,
        )
    left.set(xlabel="weights, MB", ylabel="nDCG@10, float weights", title="encoder precision")
    left.margins(0.15)
    right.set(ylabel="nDCG@10", title="document impacts")
    right.set_xticks(
        range(len(report.impacts)), report.impacts, rotation=25, ha="right", fontsize=8
    )
    right.legend(fontsize=8)
    figure.suptitle(
        f"{report.model} on {report.dataset}, {report.documents:,} documents", fontsize=10
    )
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _cost_cells(report: QuantizeReport, row: Row) -> list[str]:
    if row.cost is None:
        return [row.precision.name, *["-"] * 7]
    best = row.qualities[report.impacts[0]]
    return [
        row.precision.name,
        f"{best.ndcg:.4f}",
        f"{best.overlap:.3f}",
        f"{row.cosine:.4f}",
        f"{row.cost.documents_per_second:,.1f}",
        f"{row.cost.query_milliseconds:,.1f}",
        f"{row.cost.weight_bytes / 1e6:,.1f}",
        f"{row.cost.peak_bytes / 1e6:,.0f}",
    ]


def _table(headers: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [
        "| "
        + " | ".join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in (headers, rule, *rows)
    ]
