"""``csplade bench``: speed side by side with named peers."""

from __future__ import annotations

import json
import os
import tempfile
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

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
    documents: Annotated[
        int, typer.Option(min=1, help="Documents of the synthetic collection.")
    ] = 300_000,
    mean_terms: Annotated[
        float, typer.Option(min=1, max=10_000, help="Mean terms of its documents.")
    ] = 119,
    vectors: Annotated[
        Path | None,
        typer.Option(help="Real query vectors, Anserini JSON lines; else synthetic queries."),
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="How many queries.")] = 50,
    query_terms: Annotated[
        int, typer.Option(min=1, max=2048, help="Terms of a synthetic query.")
    ] = 43,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="Hits per query.")] = 1000,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the second column; default all cores.")
    ] = None,
    seismic: Annotated[
        bool, typer.Option(help="Also measure Seismic (approximate; minutes to build).")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the synthetic collection and queries.")] = 7,
    device: Annotated[
        str | None,
        typer.Option(
            help="Make the synthetic collection on this device (cuda, cuda:1, cpu) and time "
            "searches there instead."
        ),
    ] = None,
    vocabulary: Annotated[
        int, typer.Option(min=1, max=262_144, help="Terms there are, with --device.")
    ] = 30_522,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score queries with csplade and with what people use now: same postings, same queries,
    medians.
    """
    if device is not None:
        if index is not None or vectors is not None:
            raise typer.BadParameter(
                "--device makes its own collection and queries; leave out --index and --vectors"
            )
        _score_on_device(documents, mean_terms, vocabulary, query_terms, k, seed, device, as_json)
        return
    from ..bench import distribution, synthetic
    from ..bench import score as bench_score
    from ..core.vectors import ImpactBatch
    from ..index import Index

    def make_queries(opened: Index) -> tuple[ImpactBatch, str]:
        if vectors is not None:
            return bench_score.load_queries(vectors, opened, queries)
        chances = None if index is None else synthetic.term_shares(opened)
        batch = distribution.queries(
            queries, query_terms, seed + 1, chances, opened.manifest.query_scale
        )
        return (
            batch,
            f"synthetic, seed {seed + 1}: {queries} queries of {len(batch.terms) // queries} terms",
        )

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


def _score_on_device(
    documents: int,
    mean_terms: float,
    vocabulary: int,
    query_terms: int,
    k: int,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    from ..bench import device as bench_device
    from ..core.device import find_device

    with progress_bars("steps") as show:
        report = bench_device.run(
            documents, mean_terms, query_terms, k,
            device=find_device(device), vocabulary=vocabulary, seed=seed, progress=show,
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
        return
    print_table(bench_device.HEADINGS, report.rows(), left=[])
    for line in report.notes():
        note(line)


@app.command()
def kernels(
    compile_only: Annotated[
        bool,
        typer.Option(
            help="Compile every kernel ahead of time and tell what its machine code holds; needs "
            "no GPU."
        ),
    ] = False,
    capability: Annotated[
        list[int] | None,
        typer.Option(help="Compile for sm_N; may be repeated. Default 80, 90 and 100."),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(help="Compile only cases whose name begins so; may be repeated."),
    ] = None,
    op: Annotated[
        list[str] | None,
        typer.Option(help="Time only head, topk, score or select; may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option(help="cuda, cuda:1 ..., or cpu at small sizes.")] = "cuda",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time every kernel beside its floor and what people use instead, or (--compile-only) look into
    its machine code.
    """
    if compile_only:
        _compile_kernels(capability, case, as_json)
        return
    from ..bench import kernels as bench_kernels
    from ..core.device import find_device

    if unknown := set(op or ()) - set(bench_kernels.OPS):
        raise typer.BadParameter(f"--op {min(unknown)}: known are {', '.join(bench_kernels.OPS)}")
    report = bench_kernels.run(
        find_device(device),
        ops=[one for one in bench_kernels.OPS if not op or one in op],
        progress=lambda name: note(name),
    )
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
        return
    print_table(bench_kernels.HEADINGS, report.rows(), left=["op", "case", "way"])
    for line in report.notes():
        note(line)


def _compile_kernels(
    capabilities: list[int] | None, names: list[str] | None, as_json: bool
) -> None:
    from ..kernels.runtime import aot

    chosen = [case for case in aot.cases() if not names or case.name.startswith(tuple(names))]
    if not chosen:
        raise typer.BadParameter(f"--case {' '.join(names or ())}: no case begins so")
    compiled = list(
        aot.compile_all(chosen, capabilities or aot.CAPABILITIES, progress=lambda name: note(name))
    )
    if as_json:
        typer.echo(json.dumps([one.to_json() for one in compiled], indent=2))
    else:
        print_table(aot.HEADINGS, [one.row() for one in compiled], left=["kernel", "verdict"])
    if failed := sum(not one.ok for one in compiled):
        note(f"{failed} of {len(compiled)} are not as they should be")
        raise typer.Exit(1)


@app.command()
def encode(
    model: Annotated[
        str, typer.Option(help="`embedded` or a causal-LM model directory.")
    ] = "embedded",
    corpus: Annotated[
        Path | None,
        typer.Option(help="JSON lines to take text from; else the example corpus.", dir_okay=False),
    ] = None,
    passages: Annotated[int, typer.Option(min=16, help="Passages at most.")] = 96,
    tokens: Annotated[int, typer.Option(min=12, help="Tokens of every passage.")] = 128,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch; default all cores.")
    ] = None,
    masked_lm: Annotated[
        Literal["tiny", "distilbert", "bert-base"] | None,
        typer.Option(
            help="Instead: random masked-LM weights of that size, beside SparseEncoder on the same."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Encode passages and queries with csplade and with a plain transformers loop over the same
    weights.
    """
    from ..bench import encode as bench_encode
    from ..bench import masked as bench_masked
    from ..core.files import read_jsonl

    source = corpus or Path(__file__).parent.parent / "examples" / "corpus.jsonl"
    texts = [
        str(row.get("text", "")) for _, row in islice(read_jsonl(source), passages * tokens // 8)
    ]
    threads = threads or len(os.sched_getaffinity(0))
    if masked_lm is None:
        report = bench_encode.run(model, texts, tokens, passages, threads=threads)
    else:
        report = bench_masked.run(masked_lm, texts, tokens, passages, threads=threads)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
        return
    print_table(
        ["encoder", "ratio", "passages/s", "query ms"],
        [
            [
                one.name,
                f"{one.ratio:.2f}",
                f"{one.passages_per_second:.1f}",
                f"{one.query_milliseconds:.1f}",
            ]
            for one in report.encoders
        ],
        left=["encoder"],
    )
    note(
        f"{report.model}: {report.passages} passages of {report.tokens} tokens, queries of "
        f"{report.query_tokens}; "
        f"{report.hardware}, {report.threads} threads; medians, ratio of rates; least cosine "
        f"{report.cosine:.4f}"
    )


@app.command()
def backward(
    texts: Annotated[int, typer.Option(min=1, help="Texts of the batch.")] = 24,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of every text.")] = 96,
    hidden: Annotated[int, typer.Option(min=16, help="Hidden size.")] = 576,
    vocabulary: Annotated[int, typer.Option(min=64, help="Terms.")] = 49_152,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time and memory of a training step through the head, beside the head that holds every logit."""
    from dataclasses import asdict

    from ..bench.backward import Shape, run

    steps = run(Shape(texts, tokens, hidden, vocabulary))
    if as_json:
        typer.echo(json.dumps([asdict(step) for step in steps], indent=2))
        return
    print_table(
        ["head", "ratio", "seconds", "MB above the tensors"],
        [
            [
                step.name,
                f"{step.seconds / steps[0].seconds:.2f}",
                f"{step.seconds:.2f}",
                f"{step.megabytes:,.0f}",
            ]
            for step in steps
        ],
        left=["head"],
    )
    note(
        f"forward and backward of {texts} texts of {tokens} tokens, hidden {hidden}, {vocabulary} "
        "terms, bfloat16; medians of 3"
    )
