"""``csplade documents``: write and read the documents of a running service."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .console import filter_json, note, progress_bars

if TYPE_CHECKING:
    from ..client.client import Client
    from ..client.requests import Vector
    from ..core.document import Document
    from ..core.results import StoredDocument, WriteResult
    from ..ingest.vector_line import VectorLine

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Write and read the documents of a running service.",
)

FAILURES_SHOWN = 10

Target = Annotated[str, typer.Option(help="HOST:PORT of the service.")]
Key = Annotated[str | None, typer.Option(help="API key; writes need one with the role write.")]
Tls = Annotated[bool, typer.Option("--tls", help="Use TLS.")]
Ca = Annotated[Path | None, typer.Option(help="PEM file of the authorities to trust.")]
IfVersion = Annotated[
    int | None, typer.Option(min=0, help="Only if the stored document has this version.")
]
WithVector = Annotated[bool, typer.Option("--with-vector", help="Add the stored vectors.")]
WithVersion = Annotated[
    bool, typer.Option("--with-version", help="Add the generation of the last write.")
]
Filter = Annotated[
    str | None,
    typer.Option("--filter", metavar="JSON", help="Only those; as of csplade search."),
]
LOCAL = "localhost:50051"


@app.command()
def upsert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON lines, or a folder; as of index build.")
    ],
    vectors: Annotated[
        bool, typer.Option("--vectors", help="FILE holds ready vectors; they are not encoded.")
    ] = False,
    terms: Annotated[
        Literal["auto", "ids", "tokens"],
        typer.Option(
            help="With --vectors: what their terms are; auto: token strings if the service has "
            "them, else ids."
        ),
    ] = "auto",
    batch: Annotated[
        int, typer.Option(min=1, max=100_000, help="Documents that are written together.")
    ] = 64,
    target: Target = LOCAL,
    key: Key = None,
    tls: Tls = False,
    ca: Ca = None,
) -> None:
    """Add the documents of a file, or replace those of the same ids.

    The whole file is checked before anything is sent. The same command again sends everything
    again, and writes nothing that is stored already.
    """
    if not vectors and terms != "auto":
        raise typer.BadParameter("needs --vectors", param_hint="--terms")
    from ..core.corpus import read_corpus
    from ..ingest.vectors import read_vectors

    with _client(target, key, tls, ca) as client:
        if vectors:
            total = sum(1 for _ in read_vectors(file))
            tokens = terms == "tokens" or (terms == "auto" and _has_tokens(client))
            results = client.upsert_many(
                (line.document for line in read_vectors(file)),
                (_vector(line, tokens) for line in read_vectors(file)),
                batch=batch,
            )
        else:
            total = sum(1 for _ in read_corpus(file))
            results = client.upsert_many(read_corpus(file), batch=batch)
        _report(results, total)


@app.command()
def delete(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Ids of documents.")
    ] = None,
    filter: Filter = None,
    if_version: IfVersion = None,
    target: Target = LOCAL,
    key: Key = None,
    tls: Tls = False,
    ca: Ca = None,
) -> None:
    """Delete documents by id or by filter."""
    if bool(ids) == (filter is not None):
        raise typer.BadParameter("give ids or --filter", param_hint="ID...")
    if filter is not None and if_version is not None:
        raise typer.BadParameter("goes with ids", param_hint="--if-version")
    with _client(target, key, tls, ca) as client:
        if ids:
            _report(client.delete(ids, if_version=if_version), len(ids))
        else:
            typer.echo(f"{client.delete_where(_parsed(filter)):,} deleted")


@app.command()
def get(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of documents.")],
    with_vector: WithVector = False,
    with_version: WithVersion = False,
    target: Target = LOCAL,
    key: Key = None,
    tls: Tls = False,
    ca: Ca = None,
) -> None:
    """Print documents as JSON lines; exit with 1 if one of the ids is not there."""
    with _client(target, key, tls, ca) as client:
        found = client.get(ids, with_vector=with_vector)
    missing = [id for id, one in zip(ids, found, strict=True) if one is None]
    for one in found:
        if one is not None:
            typer.echo(_line(one, with_vector, with_version))
    for id in missing:
        note(f"{id}: no such document")
    if missing:
        raise typer.Exit(1)


@app.command()
def scroll(
    filter: Filter = None,
    with_vector: WithVector = False,
    with_version: WithVersion = False,
    page: Annotated[
        int, typer.Option(min=1, max=100_000, help="Documents that are read together.")
    ] = 100,
    target: Target = LOCAL,
    key: Key = None,
    tls: Tls = False,
    ca: Ca = None,
) -> None:
    """Print all documents as JSON lines, in order of their last write.

    csplade index build and csplade documents upsert read them.
    """
    with _client(target, key, tls, ca) as client:
        for one in client.scroll(filter=_parsed(filter), page=page, with_vector=with_vector):
            sys.stdout.write(_line(one, with_vector, with_version) + "\n")


@app.command()
def count(
    filter: Filter = None,
    target: Target = LOCAL,
    key: Key = None,
    tls: Tls = False,
    ca: Ca = None,
) -> None:
    """Print the number of documents."""
    with _client(target, key, tls, ca) as client:
        typer.echo(client.count(filter=_parsed(filter)))


def _parsed(filter: str | None) -> Any:
    return None if filter is None else filter_json(filter)


def _client(target: str, key: str | None, tls: bool, ca: Path | None) -> Client:
    from ..client.client import Client

    return Client(target, key=key, tls=tls, ca=ca)


def _has_tokens(client: Client) -> bool:
    """Whether the service knows terms by token strings."""
    info = client.info()
    return bool(info.index["string_terms"]) or info.model is not None


def _vector(line: VectorLine, tokens: bool) -> Vector:
    weights = map(float, line.weights)
    if tokens and not line.has_ids:
        return dict(zip(line.terms, weights, strict=True))
    from ..core.errors import InputError

    strange = [term for term in line.terms if not (term.isascii() and term.isdecimal())]
    if strange:
        raise InputError(
            f"{line.line.place}: term {strange[0]!r} is a token string, the service has integer ids"
        )
    return dict(zip(map(int, line.terms), weights, strict=True))


def _report(results: Iterable[WriteResult], total: int) -> None:
    """Print what became of the documents; exit with 1 if one of them failed."""
    counts: Counter[str] = Counter()
    cut: Counter[str] = Counter()
    version = 0
    with progress_bars("docs") as progress:
        for done, result in enumerate(results, 1):
            counts[result.status] += 1
            version = max(version, result.version)
            cut["tokens"] += result.cut.tokens
            cut["terms"] += result.cut.terms
            cut["impacts"] += result.cut.impacts
            if result.error is not None and counts["failed"] <= FAILURES_SHOWN:
                note(f"failed: {result.error}")
            progress("documents", done, total)
    shown = ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in counts.items())
    typer.echo(f"{shown or 'no documents'}; generation {version}")
    for what, number in cut.items():
        if number:
            note(f"{number:,} {what} were cut")
    if counts["failed"]:
        raise typer.Exit(1)


def _line(stored: StoredDocument, with_vector: bool, with_version: bool) -> str:
    """Return a document as a line of a corpus."""
    return json.dumps(dict(_fields(stored, with_vector, with_version)), ensure_ascii=False)


def _fields(
    stored: StoredDocument, with_vector: bool, with_version: bool
) -> Iterator[tuple[str, Any]]:
    document: Document = stored.document
    yield "_id", document.id
    if document.title:
        yield "title", document.title
    yield "text", document.text
    if document.metadata:
        yield "metadata", document.metadata
    if with_vector:
        yield "vector", {"indices": list(stored.terms), "values": list(stored.weights)}
    if with_version:
        yield "version", stored.version
