"""``csplade demo``: index the example corpus, serve it, and explain and measure its answers."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..core.document import Document
from ..core.fields import Fields
from ..core.files import file_sha256
from .console import load_encoder, note, print_table, progress_bars

if TYPE_CHECKING:
    from ..client.client import Client
    from ..core.beir import Dataset
    from ..core.results import Answer, Hit
    from ..engine.collection import Collection
    from ..model import Encoder

EXAMPLES = Path(__file__).parent.parent / "examples"

# Most of their words occur in the passages that answer them; "bags" does not.
QUESTIONS = (
    "seawater suddenly retreats from the shore, what should I do",
    "can the police question me without a lawyer",
    "airline lost my bags",
    "hottest planet in the solar system",
    "deadly toxin in preserved food",
)
# Written while the service runs, found by the question, and deleted.
PASSAGE = Document(
    "demo-lighthouse",
    "The last keeper of the Skerry lighthouse left in 1987, when an automatic lamp took over. Two "
    "men had wound the clockwork every four hours, trimmed the wick and logged each ship.",
    "The last lighthouse keeper",
    {"year": 1987},
)
FIELDS: Fields = {"year": "integer"}
PASSAGE_QUESTION = "when did the last lighthouse keeper leave"
HITS_SHOWN = 3  # per question
TERMS_SHOWN = 6  # per hit
MEASURED_DEPTH = 10  # hits; nDCG@10 reads no more


def demo(
    question: Annotated[
        list[str] | None, typer.Option(help="Ask this question instead; repeatable.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Encoder: embedded, a directory or a hub id.")
    ] = "embedded",
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="Keep serving at the end, until Ctrl-C.")
    ] = False,
    explore: Annotated[
        bool, typer.Option("--explore", help="Keep serving, with the explorer for a browser.")
    ] = False,
) -> None:
    """Index the example corpus, answer questions over gRPC, and show the terms of each hit."""
    for text in question or ():
        if not text.strip():
            raise typer.BadParameter("it is blank; must have a word", param_hint="--question")
    from ..client.client import Client
    from ..core.beir import load_dataset
    from ..service import settings as config
    from ..service.grpc.server import running

    dataset = load_dataset(EXAMPLES)
    encoder = _load(model)
    built = _build(dataset, encoder)
    flags = {
        "writable": True,
        "server.port": 0,
        "http.enabled": explore,
        "http.explorer": explore,
        "http.port": 0,
        "metrics.enabled": False,
        "logging.requests": False,
    }
    # The server of `csplade serve`, in a thread; it shares the encoder that built the index, and
    # writes to a copy of it.
    with (
        tempfile.TemporaryDirectory(prefix="csplade-demo-") as folder,
        running(
            config.load(flags=flags), lambda _: _open(built, Path(folder) / "index", encoder)
        ) as server,
        Client(server.address) as client,
    ):
        typer.echo(f"Serving on {server.address}; the questions go over gRPC.")
        answers = [_ask(client, text) for text in question or QUESTIONS]
        _print_latency(answers)
        _print_expansion(encoder, question or QUESTIONS)
        _measure(client, dataset)
        _write(client)
        if explore:
            typer.echo(f"\nThe explorer: http://{server.http_address}/explore")
        if keep_serving or explore:
            _wait(server.address)


def _load(model: str) -> Encoder:
    if model == "embedded":
        from ..model.checkpoint import base

        note("Fetching the base model, unless it is in the cache ...")
        base.pull()
    note("Loading the encoder ...")
    encoder = load_encoder(model, "auto")
    typer.echo(
        f"Encoder {encoder.name} on {encoder.device}, {encoder.vocabulary_size:,} terms, "
        f"fingerprint {encoder.fingerprint[:16]}."
    )
    return encoder


def _build(dataset: Dataset, encoder: Encoder) -> Path:
    """Return the index of the examples, built once and kept in the cache."""
    from ..index import IndexManifest
    from ..index.storage.manifest import FORMAT_VERSION
    from ..ingest.build import build_from_corpus
    from ..model.checkpoint import base

    corpus = file_sha256(dataset.corpus)
    fields = "-".join(FIELDS)
    key = f"{encoder.fingerprint[:16]}-{corpus[:16]}-{__version__}-{FORMAT_VERSION}-{fields}"
    index = base.cache_directory() / "demo" / key
    if (index / "index.json").is_file():
        manifest, took = (
            IndexManifest.open(index),
            f"by an earlier run; remove {index} to build it again",
        )
    else:
        with progress_bars("docs") as progress:
            report = build_from_corpus(
                dataset.corpus, index, encoder, fields=FIELDS, resume=True, progress=progress
            )
        manifest, took = report.manifest, f"in {report.seconds:.1f} s"
    typer.echo(
        f"Indexed {manifest.documents} passages, {manifest.postings:,} postings, "
        f"{manifest.bytes:,} bytes, {took}."
    )
    return index


def _open(built: Path, copy: Path, encoder: Encoder) -> Collection:
    """Copy an index and open the copy for writing."""
    from ..engine.collection import Collection
    from ..index import IndexWriter

    shutil.copytree(built, copy)
    writer = IndexWriter.open(copy)
    return Collection(writer.index, encoder, writer=writer)


def _ask(client: Client, text: str) -> Answer:
    answer = client.search(text, HITS_SHOWN, explain=True, with_document=True)
    typer.echo(f'\n"{text}": {answer.matched} passages match, {answer.postings:,} postings read')
    rows = [
        [
            str(rank),
            f"{hit.score:.2f}",
            hit.document.title if hit.document else hit.id,
            _terms(hit),
        ]
        for rank, hit in enumerate(answer, 1)
    ]
    if not rows:
        return answer
    headers = ["", "score", "passage", "terms of the score, and their share"]
    print_table(headers, rows, left=headers[2:])
    return answer


def _terms(hit: Hit) -> str:
    # Drop the marks that byte-level BPE and SentencePiece put at the start of a word.
    shown = [(one.token.lstrip("Ġ▁"), one.product) for one in hit.contributions[:TERMS_SHOWN]]
    if rest := hit.contributions[TERMS_SHOWN:]:
        shown.append((f"{len(rest)} more", sum(one.product for one in rest)))
    return ", ".join(f"{what} {product / hit.integer_score:.0%}" for what, product in shown)


def _print_latency(answers: Sequence[Answer]) -> None:
    typer.echo("\nTime of each question by stage, in milliseconds:")
    stages = list(answers[0].timings)
    rows = [
        [str(number), *(f"{answer.timings[stage] / 1e6:.2f}" for stage in stages)]
        for number, answer in enumerate(answers, 1)
    ]
    print_table(["question", *stages], rows)


def _print_expansion(encoder: Encoder, texts: Sequence[str]) -> None:
    """Print what the network adds to queries that are looked up otherwise, and its time."""
    if "both" not in encoder.manifest.query_encoders:
        return
    both = encoder.with_query_encoder("both")
    vocabulary = both.vocabulary()
    both.encode(texts[:1], "query")  # the first run prepares what later ones reuse
    rows = []
    for number, text in enumerate(texts, 1):
        encoded = both.encode([text], "query")
        own = set(encoder.encode_query([text]).terms.tolist())
        (terms,) = both.decode(encoded.vectors)
        added = [
            f"{token.lstrip('Ġ▁')} {weight:.2f}"
            for token, weight in terms
            if vocabulary[token] not in own
        ]
        spent = sum(encoded.timings.values()) / 1e6
        rows.append([str(number), f"{spent:.1f}", ", ".join(added[:TERMS_SHOWN]) or "none"])
    typer.echo("\nWhat the network adds to each question with --query-encoder both:")
    print_table(["question", "ms", "terms and weights"], rows, left=["terms and weights"])


def _measure(client: Client, dataset: Dataset) -> None:
    from ..evaluation.measures import measure

    rankings: dict[str, list[str]] = {}
    started = time.perf_counter()
    with progress_bars("queries") as progress:
        answers = client.search_many(dataset.queries.values(), MEASURED_DEPTH)
        for query, answer in zip(dataset.queries, answers, strict=True):
            rankings[query] = [hit.id for hit in answer]
            progress("queries", len(rankings), len(dataset.queries))
    seconds = time.perf_counter() - started
    values = measure(dataset.qrels, rankings)
    typer.echo(
        f"\nAll {len(rankings)} judged example queries in {seconds:.1f} s: "
        f"nDCG@10 {values['nDCG@10']:.4f}, RR@10 {values['RR@10']:.4f}."
    )


def _write(client: Client) -> None:
    """Upsert a passage, find it, delete it, and find it no longer."""
    id, question = PASSAGE.id, PASSAGE_QUESTION
    typer.echo(f'\nA passage is written while the service runs, and asked for: "{question}"')
    started = time.perf_counter()
    (written,) = client.upsert([PASSAGE])
    spent = (time.perf_counter() - started) * 1e3
    typer.echo(f"  {written.status} {id}: generation {written.version}, {spent:.0f} ms")
    _find(client, written.version)
    of_1987 = {"must": [{"field": "year", "match": {"any": [1987]}}]}
    typer.echo(f"  filtered by its year, 1987: {client.count(filter=of_1987)} of {client.count()}")
    (again,) = client.upsert([PASSAGE])
    typer.echo(f"  the same again: {again.status}")
    (deleted,) = client.delete([id])
    typer.echo(f"  {deleted.status} {id}: generation {deleted.version}")
    _find(client, deleted.version)


def _find(client: Client, generation: int) -> None:
    answer = client.search(PASSAGE_QUESTION, client.count(), min_generation=generation)
    rank = next((rank for rank, hit in enumerate(answer, 1) if hit.id == PASSAGE.id), None)
    found = "it is not there" if rank is None else f"rank {rank}"
    typer.echo(f"  searched: {found}, {answer.matched} passages match")


def _wait(address: str) -> None:
    typer.echo(
        f"\nServing on {address} until Ctrl-C. From another terminal:\n"
        f"  python -c 'from csplade import Client\n"
        f'for hit in Client("{address}").search("why do cats purr", explain=True): print(hit)\''
    )
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        note("Draining ...")
