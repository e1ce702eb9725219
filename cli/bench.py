"""``csplade bench``: speed side by side with named peers."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import typer

from ..core.machine import cores
from .console import note, print_table, progress_bars

if TYPE_CHECKING:
    from ..bench.score import ScoreReport
    from ..core.vectors import ImpactBatch
    from ..index import Index as OpenIndex

EXAMPLES = Path(__file__).parent.parent / "examples" / "corpus.jsonl"
TOKENS_PER_TEXT = 8  # at least, of a line of a corpus

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Measure speed side by side with named peers.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Report(Protocol):
    """A report with a JSON form."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""


@app.callback()
def _bench() -> None:
    """Measure speed side by side with named peers."""


Index = Annotated[
    Path | None, typer.Option(help="Index to search; default: a synthetic collection.")
]
Documents = Annotated[int, typer.Option(min=1, help="Documents of the synthetic collection.")]
MeanTerms = Annotated[
    float, typer.Option(min=1, max=10_000, help="Mean terms per synthetic document.")
]
Vectors = Annotated[
    Path | None,
    typer.Option(help="Query vectors, Anserini JSON lines; default: synthetic queries."),
]
Queries = Annotated[int, typer.Option(min=1, help="Number of queries.")]
QueryTerms = Annotated[int, typer.Option(min=1, max=2048, help="Terms per synthetic query.")]
Seed = Annotated[int, typer.Option(help="Seed of the synthetic collection and queries.")]


@app.command()
def score(
    index: Index = None,
    documents: Documents = 300_000,
    mean_terms: MeanTerms = 119,
    vectors: Vectors = None,
    queries: Queries = 50,
    query_terms: QueryTerms = 43,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="Hits per query.")] = 1000,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the second column; default: all cores.")
    ] = None,
    seismic: Annotated[
        bool, typer.Option(help="Also measure Seismic (approximate; its build takes minutes).")
    ] = True,
    seed: Seed = 7,
    device: Annotated[
        str | None,
        typer.Option(
            help="Make the synthetic collection on this device (cuda, cuda:1, cpu) and time "
            "searches there instead."
        ),
    ] = None,
    vocabulary: Annotated[
        int, typer.Option(min=1, max=262_144, help="With --device: number of terms.")
    ] = 30_522,
    as_json: AsJson = False,
) -> None:
    """Score queries with csplade and its peers, same postings."""
    if device is not None:
        if index is not None or vectors is not None:
            raise typer.BadParameter(
                "makes its own collection and queries; leave out --index and --vectors",
                param_hint="--device",
            )
        _score_on_device(documents, mean_terms, vocabulary, query_terms, k, seed, device, as_json)
        return
    from ..bench.score import compare_scorers

    with progress_bars("steps") as show:
        source = _Source(index, documents, mean_terms, vectors, queries, query_terms, seed)
        with source.open(show) as (path, collection):
            report = compare_scorers(
                path,
                collection,
                source.make_queries,
                k,
                threads or cores(),
                seismic=seismic,
                progress=show,
            )
    _print_report(report, as_json)


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
    from ..bench.device import HEADINGS, run
    from ..core.device import find_device

    with progress_bars("steps") as show:
        report = run(
            documents,
            mean_terms,
            query_terms,
            k,
            device=find_device(device),
            vocabulary=vocabulary,
            seed=seed,
            progress=show,
        )
    if as_json:
        _print_json(report)
        return
    print_table(HEADINGS, report.rows(), left=[])
    for line in report.notes():
        note(line)


@app.command()
def serve(
    index: Index = None,
    documents: Documents = 100_000,
    mean_terms: MeanTerms = 119,
    vectors: Vectors = None,
    queries: Queries = 200,
    query_terms: QueryTerms = 43,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="Hits per query.")] = 10,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every engine.")] = 1,
    seed: Seed = 7,
    out: Annotated[
        Path | None, typer.Option(help="Markdown file to write, with command, machine and date.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time the service and its peers, same vectors and threads.

    The peers are a bare grpc.aio echo server, which repeats one answer, and the engines BMP,
    Qdrant Edge and bm25s in this process; those that are not installed are left out.
    """
    # The engines read these when they are imported.
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    from ..bench.serve import compare_services
    from ..core.files import write_aside
    from ..loadtest import report as notes
    from ..loadtest.echo import answering
    from ..loadtest.serve import serving

    options = ["--no-model", "--threads", str(threads), "--set", "logging.requests=false"]
    with tempfile.TemporaryDirectory() as directory, progress_bars("steps") as show:
        source = _Source(index, documents, mean_terms, vectors, queries, query_terms, seed)
        with (
            source.open(show) as (path, collection),
            serving(path, "single", Path(directory), note, options) as (service, _),
            answering(k) as echo,
        ):
            report = compare_services(
                path,
                collection,
                source.make_queries,
                k,
                threads,
                service=service,
                echo=echo,
                progress=show,
            )
    _print_report(report, as_json)
    if out is not None:
        lines = [f"`{notes.command()}`, {notes.now()}", "", *report.markdown()]
        with write_aside(out) as file:
            file.write("\n".join(lines) + "\n")
        note(f"written: {out}")


@app.command()
def kernels(
    compile_only: Annotated[
        bool,
        typer.Option(
            help="Compile every kernel ahead of time and show what its machine code holds; needs "
            "no GPU."
        ),
    ] = False,
    capability: Annotated[
        list[int] | None,
        typer.Option(help="Compile for sm_N; repeatable. Default: 80, 90 and 100."),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(help="Compile only cases whose name starts with this; repeatable."),
    ] = None,
    op: Annotated[
        list[str] | None,
        typer.Option(help="Time only head, topk, score or select; repeatable."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cuda, cuda:1 ..., or cpu with small inputs.")
    ] = "cuda",
    as_json: AsJson = False,
) -> None:
    """Time kernels beside their lower bounds and their peers.

    --compile-only inspects their machine code instead.
    """
    if compile_only:
        _compile_kernels(capability, case, as_json)
        return
    from ..bench.kernels import HEADINGS, OPS, run
    from ..core.device import find_device

    if unknown := set(op or ()) - set(OPS):
        raise typer.BadParameter(
            f"{min(unknown)!r} is unknown; must be one of {', '.join(OPS)}", param_hint="--op"
        )
    report = run(
        find_device(device), ops=[one for one in OPS if not op or one in op], progress=note
    )
    if as_json:
        _print_json(report)
        return
    print_table(HEADINGS, report.rows(), left=["op", "case", "way"])
    for line in report.notes():
        note(line)


def _compile_kernels(
    capabilities: list[int] | None, names: list[str] | None, as_json: bool
) -> None:
    from ..kernels.runtime import aot

    chosen = [case for case in aot.cases() if not names or case.name.startswith(tuple(names))]
    if not chosen:
        raise typer.BadParameter(
            f"{' '.join(names or ())}: no case starts with it", param_hint="--case"
        )
    compiled = list(
        aot.compile_all(chosen, capabilities or aot.CAPABILITIES, progress=lambda name: note(name))
    )
    if as_json:
        typer.echo(json.dumps([one.to_json() for one in compiled], indent=2))
    else:
        print_table(aot.HEADINGS, [one.row() for one in compiled], left=["kernel", "verdict"])
    if failed := sum(not one.ok for one in compiled):
        note(f"{failed} of {len(compiled)} kernels break an expectation, see their verdict")
        raise typer.Exit(1)


@app.command()
def filter(
    documents: Documents = 300_000,
    mean_terms: MeanTerms = 119,
    queries: Queries = 50,
    query_terms: QueryTerms = 43,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="Hits per query.")] = 1000,
    threads: Annotated[int, typer.Option(min=1, help="Threads that score.")] = 1,
    seed: Seed = 7,
    as_json: AsJson = False,
) -> None:
    """Time searches with cached filters beside the same ones without."""
    from ..bench import distribution
    from ..bench.filter import HEADINGS, run

    batch = distribution.queries(queries, query_terms, seed + 1)
    query_set = f"synthetic, seed {seed + 1}: {queries} queries of {query_terms} terms"
    with progress_bars("steps") as show, tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "index"
        report = run(path, documents, mean_terms, batch, query_set, k, threads, seed, progress=show)
    if as_json:
        _print_json(report)
        return
    print_table(HEADINGS, report.rows(), left=["filter"])
    for line in report.notes():
        note(line)


@app.command()
def live(
    sizes: Annotated[
        list[int] | None, typer.Option("--documents", min=1, help="Sizes; may be repeated.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Documents of a batch.")] = 256,
    mean_terms: MeanTerms = 119,
    peer: Annotated[bool, typer.Option(help="Write to Qdrant Edge beside it.")] = True,
    seed: Seed = 7,
    as_json: AsJson = False,
) -> None:
    """Time durable writes to an index as it grows, and searches beside them."""
    from ..bench import distribution
    from ..bench.live import HEADINGS, run

    batches = distribution.queries(20, 43, seed + 1)
    with progress_bars("documents") as show, tempfile.TemporaryDirectory() as directory:
        report = run(
            Path(directory),
            sorted(sizes or [10_000]),
            batch,
            mean_terms,
            batches,
            seed,
            peer=peer,
            progress=show,
        )
    if as_json:
        _print_json(report)
        return
    print_table(HEADINGS, report.rows())
    for line in report.notes():
        note(line)


@app.command()
def encode(
    model: Annotated[str, typer.Option(help="embedded or a causal-LM directory.")] = "embedded",
    corpus: Annotated[
        Path | None,
        typer.Option(help="JSON lines with text; default: the example corpus.", dir_okay=False),
    ] = None,
    passages: Annotated[int, typer.Option(min=16, help="Passages at most.")] = 96,
    tokens: Annotated[int, typer.Option(min=12, help="Tokens per passage.")] = 128,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch; default: all cores.")
    ] = None,
    masked_lm: Annotated[
        Literal["tiny", "distilbert", "bert-base"] | None,
        typer.Option(
            help="Use random masked-LM weights of this size instead, and SparseEncoder as the peer."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ... (causal LMs).")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Encode texts with csplade and its peers, same weights."""
    from ..bench.encode import compare_with_loop
    from ..bench.masked import compare_with_sparse_encoder
    from ..core.device import find_device
    from ..core.lines import read_jsonl

    if masked_lm and device != "cpu":
        raise typer.BadParameter("masked LMs are compared on the CPU only", param_hint="--device")
    lines = islice(read_jsonl(corpus or EXAMPLES), passages * tokens // TOKENS_PER_TEXT)
    texts = [str(row.get("text", "")) for _, row in lines]
    threads = threads or cores()
    if masked_lm is None:
        report = compare_with_loop(
            model, texts, tokens, passages, threads=threads, device=str(find_device(device))
        )
    else:
        report = compare_with_sparse_encoder(masked_lm, texts, tokens, passages, threads=threads)
    if as_json:
        _print_json(report)
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
        f"{report.query_tokens} tokens; {report.hardware}, {report.threads} threads; medians, "
        f"ratio of rates; smallest cosine {report.cosine:.4f}"
    )


@app.command()
def backward(
    texts: Annotated[int, typer.Option(min=1, help="Texts per batch.")] = 24,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens per text.")] = 96,
    hidden: Annotated[int, typer.Option(min=16, help="Hidden size.")] = 576,
    vocabulary: Annotated[int, typer.Option(min=64, help="Number of terms.")] = 49_152,
    as_json: AsJson = False,
) -> None:
    """Time a training step of the head and of its naive form."""
    from dataclasses import asdict

    from ..bench.backward import BatchShape, compare_heads

    steps = compare_heads(BatchShape(texts, tokens, hidden, vocabulary))
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


@dataclass(frozen=True)
class _Source:
    """The collection and the queries that the options describe."""

    index: Path | None
    documents: int
    mean_terms: float
    vectors: Path | None
    queries: int
    query_terms: int
    seed: int

    @contextmanager
    def open(self, show: Callable[[str, int, int], None]) -> Iterator[tuple[Path, str]]:
        """Yield the index and its description; a synthetic one is removed afterwards."""
        from ..bench import distribution, synthetic

        if self.index is not None:
            yield self.index, f"index {self.index}"
            return
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "index"
            synthetic.build(path, self.documents, self.mean_terms, self.seed, show)
            yield path, distribution.describe(self.documents, self.mean_terms, self.seed)

    def make_queries(self, opened: OpenIndex) -> tuple[ImpactBatch, str]:
        """Return the queries and their description."""
        from ..bench import distribution, synthetic
        from ..bench.score import load_queries

        if self.vectors is not None:
            return load_queries(self.vectors, opened, self.queries)
        chances = None if self.index is None else synthetic.term_shares(opened)
        seed = self.seed + 1
        batch = distribution.queries(self.queries, self.query_terms, seed, chances)
        terms = len(batch.terms) // self.queries
        return batch, f"synthetic, seed {seed}: {self.queries} queries of {terms} terms"


def _print_report(report: ScoreReport, as_json: bool) -> None:
    if as_json:
        _print_json(report)
        return
    print_table(report.headings(), report.rows(), left=["scorer"])
    for line in report.notes():
        note(line)


def _print_json(report: Report) -> None:
    typer.echo(json.dumps(report.to_json(), indent=2))
