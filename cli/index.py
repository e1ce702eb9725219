"""``csplade index``: build an index, inspect it, verify it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .console import (
    BadLines,
    Base,
    Preset,
    Quantization,
    Words,
    above_zero,
    load_encoder,
    note,
    note_counts,
    print_table,
    progress_bars,
)

if TYPE_CHECKING:
    from ..index import IndexManifest

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Build, inspect and verify an index.",
)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the index.")]


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Directory of the index, absent or empty.")],
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines (plain, .gz, .zst) or .parquet with _id, title, text; file or folder."
        ),
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(
            help="Vectors with id, contents, vector: JSON lines, .parquet or .ciff; file or folder."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Encoder: embedded, a directory or a hub id. With --vectors: the encoder that "
            "made them."
        ),
    ] = None,
    shards: Annotated[int, typer.Option(min=1, max=9999, help="Number of shards.")] = 1,
    quantization: Quantization = "auto",
    preset: Preset = None,
    tokenizer: Words = None,
    base: Base = None,
    terms: Annotated[
        Literal["auto", "ids", "tokens"],
        typer.Option(
            help="With --vectors: what their terms are. auto: ids for indices and values; else "
            "token strings with --model; else ids if every term is a whole number."
        ),
    ] = "auto",
    vocabulary_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**31 - 1,
            help="With --vectors of integer ids: the ids are below it; default: the largest one.",
        ),
    ] = None,
    document_scale: Annotated[
        float | None,
        typer.Option(
            help="With --vectors: weight of one step of a document impact; default: fitted.",
            callback=above_zero,
        ),
    ] = None,
    query_modifier: Annotated[
        Literal["auto", "none", "idf"],
        typer.Option(help="Factors on query weights from this index; auto: as the encoder says."),
    ] = "auto",
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            metavar="NAME:TYPE",
            help="Field of the metadata that filters may name; TYPE is keyword, bool, integer, "
            "float or datetime. Give it once for each field.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a build that was interrupted.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip bad lines, count and report them.")
    ] = False,
) -> None:
    """Index a corpus with an encoder, or index vectors.

    A build that was killed at any instant continues with --resume.
    """
    if (corpus is None) == (vectors is None):
        raise typer.BadParameter("give either --corpus or --vectors", param_hint="--corpus")
    if corpus is not None and (
        terms != "auto" or (document_scale, vocabulary_size) != (None, None)
    ):
        raise typer.BadParameter(
            "--terms, --vocabulary-size and --document-scale need --vectors", param_hint="--corpus"
        )
    if vocabulary_size is not None and model is not None:
        raise typer.BadParameter("goes without --model", param_hint="--vocabulary-size")
    if vectors is not None and quantization != "auto":
        raise typer.BadParameter("needs --corpus", param_hint="--quantization")
    from ..core.errors import InputError
    from ..core.fields import parse_fields
    from ..ingest.build import build_from_corpus, build_from_vectors

    how = {"preset": preset, "tokenizer": tokenizer, "base": base}
    on_bad = BadLines() if skip_bad else None
    try:
        declared = parse_fields(fields or ())
    except InputError as error:
        raise typer.BadParameter(str(error), param_hint="--field") from None
    with progress_bars("docs") as progress:
        if corpus is not None:
            report = build_from_corpus(
                corpus,
                out,
                lambda: load_encoder(model or "embedded", quantization, **how),
                shards=shards,
                query_modifier=query_modifier,
                fields=declared,
                resume=resume,
                on_bad=on_bad,
                progress=progress,
            )
        elif vectors is not None:
            report = build_from_vectors(
                vectors,
                out,
                encoder=None if model is None else lambda: load_encoder(model, "auto", **how),
                keys=None if terms == "auto" else terms,
                vocabulary_size=vocabulary_size,
                shards=shards,
                query_modifier=query_modifier,
                fields=declared,
                document_scale=document_scale,
                resume=resume,
                on_bad=on_bad,
                progress=progress,
            )
    if any(how.values()):
        note(
            f"a search needs the model certified by the same options: csplade model certify {model}"
        )
    manifest = report.manifest
    typer.echo(
        f"{out}: {manifest.documents:,} documents, {manifest.postings:,} postings, "
        f"{manifest.bytes:,} bytes, {manifest.shard_count} shards, {report.seconds:.1f} s"
    )
    note_counts(
        {
            "documents were kept from the interrupted build": report.resumed,
            "bad lines were skipped": report.skipped,
            "documents have no terms, no query finds them": report.empty,
            "tokens were cut by the token cap": report.dropped_tokens,
            "terms were cut by the term cap": report.dropped_terms,
            "impacts were too large and were reduced": manifest.clipped,
        }
    )
    _show_fidelity(manifest)


@app.command()
def export(
    index: Directory,
    out: Annotated[Path, typer.Option(help="File to write; it must not be there.")],
    form: Annotated[
        Literal["auto", "jsonl", "ciff", "parquet"],
        typer.Option(
            "--format",
            help="jsonl: Anserini's vectors; ciff: Common Index File Format; parquet; auto: what "
            "the name of the file ends in.",
        ),
    ] = "auto",
    terms: Annotated[
        Literal["tokens", "ids"],
        typer.Option(help="Write terms as token strings, if the index has them, or as ids."),
    ] = "tokens",
) -> None:
    """Write the live documents of an index for other engines.

    Weights are impacts, whole numbers. CIFF has ids and postings, no texts.
    """
    from ..core.files import require_new
    from ..core.parquet import import_pyarrow
    from ..engine.collection import Collection
    from ..ingest.encode import name_terms
    from ..ingest.export import FORMATS, export_index

    named = FORMATS.get(out.suffix)
    if form == "auto" and named is None:
        raise typer.BadParameter(
            f"{out.name} ends in none of {', '.join(FORMATS)}; give --format", param_hint="--out"
        )
    if form != "auto" and named not in (None, form):
        raise typer.BadParameter(f"{out.name} ends as {named} does", param_hint="--format")
    chosen = named if form == "auto" else form
    assert chosen is not None
    require_new(out)
    if chosen == "parquet":
        import_pyarrow(out)
    with Collection.open(index, with_encoder=terms == "tokens") as collection:
        names = collection.index.manifest.vocabulary
        name_term: Callable[[int], str] | None = None
        if terms == "tokens" and names is not None:
            name_term = names.__getitem__
        elif terms == "tokens" and collection.encoder is not None:
            name_term = name_terms(collection.encoder, terms)
        with progress_bars("docs") as show:
            count = export_index(collection.index, out, chosen, name_term, show)
    typer.echo(f"{out}: {count:,} documents")


@app.command()
def info(
    index: Directory,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what an index is and holds; reads its manifests and counts only."""
    from ..index import describe

    manifest = describe(index)
    values = {
        "documents": manifest.documents,
        "deleted": sum(shard.deleted for shard in manifest.shards),
        "postings": manifest.postings,
        "bytes": manifest.bytes,
        "clipped": manifest.clipped,
        "generation": manifest.generation,
        "format_version": manifest.format_version,
        "encoder": manifest.encoder,
        "vocabulary_size": manifest.vocabulary_size,
        "terms": "ids" if manifest.vocabulary is None else "tokens",
        "document_scale": manifest.document_scale,
        "max_impact": manifest.max_impact,
        "fidelity": manifest.fidelity and asdict(manifest.fidelity),
        "query_modifier": manifest.query_modifier,
        "fields": manifest.fields,
        "block_size": manifest.block_size,
        "shards": [asdict(shard) for shard in manifest.shards],
    }
    if as_json:
        typer.echo(json.dumps({"path": str(index), **values}, indent=1, ensure_ascii=False))
        return
    encoder = manifest.encoder
    values["encoder"] = (
        f"{encoder['model']} ({encoder['fingerprint'][:16]})" if encoder else "none, vectors only"
    )
    values["fields"] = ", ".join(map(":".join, manifest.fields.items())) or "none"
    del values["shards"], values["fidelity"]
    rows = [[name.replace("_", " "), _text(value)] for name, value in values.items()]
    print_table(["field", "value"], rows, left=["field", "value"])
    rows = [
        [
            str(one.shard),
            *map(_text, (one.documents, one.postings, one.bytes, one.clipped, len(one.segments))),
        ]
        for one in manifest.shards
    ]
    typer.echo("")
    _show_fidelity(manifest)
    typer.echo("")
    print_table(["shard", "documents", "postings", "bytes", "clipped", "segments"], rows)


@app.command()
def declare(
    index: Directory,
    fields: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME:TYPE...",
            help="Fields of the metadata that filters may name; TYPE is keyword, bool, integer, "
            "float, datetime, or none to drop the declaration.",
        ),
    ],
) -> None:
    """Declare fields of a finished index, or drop them.

    Filters know them once the index is opened again.
    """
    from ..core.errors import InputError
    from ..core.fields import parse_fields
    from ..index import declare_field, drop_field

    dropped = [text.removesuffix(":none") for text in fields if text.endswith(":none")]
    try:
        declared = parse_fields(text for text in fields if not text.endswith(":none"))
    except InputError as error:
        raise typer.BadParameter(str(error), param_hint="NAME:TYPE") from None
    for name in dropped:
        drop_field(index, name)
        typer.echo(f"{index}: {name} is dropped")
    for name, kind in declared.items():
        declare_field(index, name, kind)
        typer.echo(f"{index}: {name} is declared as {kind}")


@app.command()
def verify(
    index: Directory,
    sample: Annotated[
        int, typer.Option(min=0, help="Documents to search for with the scorer and the oracle.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="First rebuild missing or altered segments from the document store."
        ),
    ] = False,
) -> None:
    """Check checksums, invariants and the scores of a sample.

    The oracle scores the sample again. Exits with 1 on any problem.
    """
    from ..index import Index, maintenance

    if repair:
        for path in maintenance.repair(index):
            note(f"rebuilt: {path}")
    with Index.open(index) as opened:
        report = maintenance.verify(opened, sample, seed)
    for check in report.checks:
        typer.echo(f"checked  {check}")
    for problem in report.problems:
        typer.echo(f"PROBLEM  {problem}")
    if report.problems:
        note(f"csplade: {index}: {len(report.problems)} problems in {report.documents:,} documents")
        raise typer.Exit(1)
    typer.echo(f"sound    {report.documents:,} documents, {report.segments} segments")


def _show_fidelity(manifest: IndexManifest) -> None:
    """Print what rounding the weights costs, and a warning where it costs too much."""
    measured = manifest.fidelity
    assert measured is not None
    typer.echo(
        f"rounding: {measured.overlap:.2%} of the top 10 and {measured.top_1:.2%} of the top 1 "
        f"agree with float32 ({measured.queries} queries over {measured.documents:,} documents); "
        f"scale {manifest.step:.4g}, impacts up to {manifest.max_impact:,}, "
        f"{measured.two_bytes:.2%} of them take two postings, {measured.rounded_up:.2%} were "
        "rounded up to 1"
    )
    if not measured.enough:
        note(
            f"csplade: rounding changes rankings: {measured.overlap:.2%} of the top 10 agree with "
            "float32, 99 % should; build again with a smaller --document-scale, or with none to "
            "fit it to the weights"
        )


def _text(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
