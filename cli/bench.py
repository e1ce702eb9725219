"""``csplade bench``: speed side by side with named peers."""

from __future__ import annotations

import json
import os
import tempfile
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from .console import note, print_table, progress_bars

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Measure speed side by side with named peers.",
)


@app.callback()
def _bench() -> None:
    """Measure speed side by side with named peers."""


@app.command()
def score(
    index: Annotated[
        Path | None, typer.Option(help="An index to score; else a synthetic collection is made.")
    ] = None,
    documents: Annotated[int, typer.Option(min=1, help="Documents of the synthetic collection.")] = 300_000,
    mean_terms: Annotated[float, typer.Option(min=1, max=10_000, help="Mean terms of its documents.")] = 119,
    vectors: Annotated[
        Path | None, typer.Option(help="Real query vectors, Anserini JSON lines; else synthetic queries.")
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="How many queries.")] = 50,
    query_terms: Annotated[int, typer.Option(min=1, max=2048, help="Terms of a synthetic query.")] = 43,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="Hits per query.")] = 1000,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the second column; default all cores.")
    ] = None,
    seismic: Annotated[
        bool, typer.Option(help="Also measure Seismic (approximate; minutes to build).")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the synthetic collection and queries.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score queries with csplade and with what people use now: same postings, same queries, medians."""
    from ..evaluation import bench_score, distribution, synthetic
    from ..index import Index
    from ..kernels.sparse import ImpactBatch

    def make_queries(opened: Index) -> tuple[ImpactBatch, str]:
        if vectors is not None:
            return bench_score.load_queries(vectors, opened, queries)
        chances = None if index is None else synthetic.term_shares(opened)
        batch = distribution.queries(queries, query_terms, seed + 1, chances, opened.manifest.query_scale)
        return batch, f"synthetic, seed {seed + 1}: {queries} queries of {len(batch.terms) // queries} terms"

    with tempfile.TemporaryDirectory() as directory, progress_bars("steps") as show:
        path, collection = index, f"index {index}"
        if path is None:
            path = Path(directory) / "index"
            synthetic.build(path, documents, mean_terms, seed, show)
            collection = distribution.describe(documents, mean_terms, seed)
        report = bench_score.run(
            path,
            collection,
            make_queries,
            k,
            threads or len(os.sched_getaffinity(0)),
            seismic=seismic,
            progress=show,
        )
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
        return
    print_table(
        [
            "scorer",
            "ratio",
            "ms/query",
            f"ratio, {report.threads} threads",
            "ms/query",
            f"recall@{report.k}",
            "exact",
        ],
        [
            [
                one.name,
                f"{one.ratio:.2f}",
                f"{one.milliseconds:.3f}",
                f"{one.threaded_ratio:.2f}",
                f"{one.threaded:.3f}",
                f"{one.recall:.4f}",
                {True: "yes", False: "no", None: "-"}[one.exact],
            ]
            for one in report.scorers
        ],
        left=["scorer"],
    )
    for line in (
        report.collection,
        f"{report.postings / report.documents:.1f} postings a document; {report.query_set}, "
        f"{report.postings_per_query:,.0f} postings read by a query; top {report.k}",
        f"{report.hardware}; medians, ratio to csplade, one thread then {report.threads}",
    ):
        note(line)


@app.command()
def encode(
    model: Annotated[str, typer.Option(help="`embedded` or a causal-LM model directory.")] = "embedded",
    corpus: Annotated[
        Path | None,
        typer.Option(help="JSON lines to take text from; else the example corpus.", dir_okay=False),
    ] = None,
    passages: Annotated[int, typer.Option(min=16, help="Passages at most.")] = 96,
    tokens: Annotated[int, typer.Option(min=12, help="Tokens of every passage.")] = 128,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; default all cores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Encode passages and queries with csplade and with a plain transformers loop over the same weights."""
    from ..evaluation import bench_encode
    from ..files import read_jsonl

    source = corpus or Path(__file__).parent.parent / "examples" / "corpus.jsonl"
    texts = [str(row.get("text", "")) for _, row in islice(read_jsonl(source), passages * tokens // 8)]
    report = bench_encode.run(model, texts, tokens, passages, threads=threads or len(os.sched_getaffinity(0)))
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
        return
    print_table(
        ["encoder", "ratio", "passages/s", "query ms"],
        [
            [one.name, f"{one.ratio:.2f}", f"{one.passages_per_second:.1f}", f"{one.query_milliseconds:.1f}"]
            for one in report.encoders
        ],
        left=["encoder"],
    )
    note(
        f"{report.model}: {report.passages} passages of {report.tokens} tokens, queries of {report.query_tokens}; "
        f"{report.hardware}, {report.threads} threads; medians, ratio of rates; least cosine {report.cosine:.4f}"
    )
