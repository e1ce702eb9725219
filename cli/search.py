"""``csplade search``: search an index without a server, for a table or a TREC run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .console import (
    Quantization,
    QueryEncoder,
    filter_json,
    finite,
    not_blank,
    note,
    note_counts,
    print_table,
    progress_bars,
)
from .index import Directory

if TYPE_CHECKING:
    from ..core.results import Answer, Hit

Hits = list[tuple[str, float]]  # document ids and scores, best first
Join = Callable[[str, Hits], Hits]  # of a query's id and hits

MAX_DEPTH = 10_000  # hits that one search ranks
SNIPPET_CHARACTERS = 100  # of a document, in the table
TERMS_SHOWN = 6  # per hit, in the table


def search(
    index: Directory,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Query to search for.", callback=not_blank)
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="Hits per query at most.")] = 10,
    filter: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="JSON",
            help='Which documents may be hits, by declared fields: \'{"must": [{"field": "year", '
            '"range": {"gte": 2000}}]}\'.',
        ),
    ] = None,
    offset: Annotated[int, typer.Option(min=0, help="Hits per query to pass over.")] = 0,
    score_threshold: Annotated[
        float | None, typer.Option(help="Smallest score of a hit.", callback=finite)
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the terms of each score.")
    ] = False,
    with_vector: Annotated[
        bool, typer.Option("--with-vector", help="With --json: add each hit's stored vector.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object with everything.")
    ] = False,
    queries: Annotated[
        Path | None, typer.Option(help="Many queries: JSON lines with _id and text, or .tsv.")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Many queries: vectors, JSON lines, or .tsv of tokens.")
    ] = None,
    terms: Annotated[
        Literal["auto", "ids", "tokens"],
        typer.Option(
            help="With --vectors: what their terms are; auto: token strings if the index or its "
            "encoder has them, else ids."
        ),
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option(help="With --queries, --vectors: TREC run to write.")
    ] = None,
    integer_scores: Annotated[
        bool, typer.Option("--integer-scores", help="In the run: exact int32 scores.")
    ] = False,
    tag: Annotated[str, typer.Option(help="In the run: its name, last in each line.")] = "csplade",
    fuse: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Join the hits with those of this TREC run, of a second system."
        ),
    ] = None,
    fusion: Annotated[
        Literal["rrf", "sum"],
        typer.Option(
            help="How --fuse joins: rrf, reciprocal ranks with k = 60; sum, the weighted sum of "
            "scores, each query's moved to 0 to 1."
        ),
    ] = "rrf",
    fuse_weight: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="With --fusion sum: weight of RUN; ours has the rest."),
    ] = 0.5,
    model: Annotated[
        str | None, typer.Option(help="Encoder; default: the one of the index.")
    ] = None,
    quantization: Quantization = "auto",
    query_encoder: QueryEncoder = "auto",
) -> None:
    """Search an index without a server.

    TEXT prints a table. --queries or --vectors answer a file of queries and write a TREC run.
    """
    if sum(one is not None for one in (text, queries, vectors)) != 1:
        raise typer.BadParameter("give one of TEXT, --queries and --vectors", param_hint="TEXT")
    if (text is None) != (output is not None):
        raise typer.BadParameter(
            "goes with --queries and --vectors, which need it", param_hint="--output"
        )
    if text is None and (explain or as_json):
        raise typer.BadParameter("need TEXT", param_hint="--explain, --json")
    if text is not None and integer_scores:
        raise typer.BadParameter("needs --queries or --vectors", param_hint="--integer-scores")
    if with_vector and not as_json:
        raise typer.BadParameter("needs --json", param_hint="--with-vector")
    if k + offset > MAX_DEPTH:
        raise typer.BadParameter(
            f"{offset} and -k {k} reach {k + offset}; at most {MAX_DEPTH:,}", param_hint="--offset"
        )
    if vectors is None and terms != "auto":
        raise typer.BadParameter("needs --vectors", param_hint="--terms")
    if fuse is not None and (text is not None or integer_scores):
        raise typer.BadParameter(
            "needs --queries or --vectors, goes without --integer-scores", param_hint="--fuse"
        )
    if fusion != "sum" and fuse_weight != 0.5:
        raise typer.BadParameter("needs --fusion sum", param_hint="--fuse-weight")
    from ..core.beir import read_queries
    from ..core.filters import Filter
    from ..engine.bulk import answer_texts, answer_vectors
    from ..engine.collection import Collection
    from ..index import IndexManifest
    from ..ingest.trec import check_run_place
    from ..ingest.vectors import read_query_vectors

    # Check everything first: an error must not wait for a model to load.
    manifest = IndexManifest.open(index)
    options: dict[str, Any] = {"offset": offset, "score_threshold": score_threshold}
    if filter is not None:
        options["filter"] = Filter.parse(filter_json(filter)).resolve(manifest.fields)
    if output is not None:
        check_run_place(output, tag)
    join = None if fuse is None else _joiner(fuse, fusion, fuse_weight, k)
    texts = {} if queries is None else read_queries(queries)
    lines = [] if vectors is None else read_query_vectors(vectors)
    keys = None if terms == "auto" else terms
    named = [term for line in lines if not line.has_ids for term in line.terms]
    needs_encoder = vectors is None or bool(named and manifest.encoder and keys != "ids")
    if needs_encoder and named and keys is None and all(map(str.isdecimal, named)):
        note("every query term is a number, read as a token string; --terms ids reads integer ids")
    with Collection.open(
        index,
        model=model,
        with_encoder=needs_encoder,
        quantization=quantization,
        query_encoder=query_encoder,
    ) as engine:
        if text is not None:
            answer = engine.search([text], k, explain=explain, with_vector=with_vector, **options)[
                0
            ]
            if as_json:
                typer.echo(json.dumps(_plain(text, answer), ensure_ascii=False))
            else:
                _print(answer, explain)
        elif output is not None:
            answers = (
                answer_vectors(lines, engine, k, keys, **options)
                if vectors
                else answer_texts(texts, engine, k, **options)
            )
            _write(answers, len(lines) or len(texts), output, tag, integer_scores, join)


def _joiner(path: Path, fusion: str, weight: float, k: int) -> Join:
    """Read a run of a second system; returns what joins a query's hits with its ranking there."""
    from ..core.errors import InputError
    from ..core.fusion import reciprocal_rank_fusion, weighted_sum
    from ..ingest.trec import read_run

    run = read_run(path)
    if fusion == "sum" and not all(map(math.isfinite, chain.from_iterable(run.scores.values()))):
        raise InputError(f"{path}: has an infinite score; use --fusion rrf")

    def join(query: str, hits: Hits) -> Hits:
        theirs = run.rankings.get(query, [])
        if fusion == "rrf":
            return reciprocal_rank_fusion([[one for one, _ in hits], theirs])[:k]
        scores = dict(zip(theirs, run.scores.get(query, []), strict=True))
        return weighted_sum([dict(hits), scores], [1 - weight, weight])[:k]

    return join


def _write(
    answers: Iterable[tuple[str, Answer]],
    total: int,
    output: Path,
    tag: str,
    integer_scores: bool,
    join: Join | None,
) -> None:
    from ..ingest.trec import write_run

    counts = dict.fromkeys(
        (
            "queries have no hits",
            "query tokens were cut by the token cap",
            "query terms were cut by the term cap or are not in the index's vocabulary",
            "query impacts were clipped",
        ),
        0,
    )
    with progress_bars("queries") as progress, write_run(output, tag) as run:
        progress("queries", 0, total)
        for done, (query, answer) in enumerate(answers, 1):
            found = answer.hits
            scores = found.integer_scores if integer_scores else found.scores
            hits: Hits = list(zip(found.ids, scores, strict=True))
            run.write(query, join(query, hits) if join else hits)
            cuts = (not answer.hits, answer.cut.tokens, answer.cut.terms, answer.cut.impacts)
            counts = {
                what: count + cut for (what, count), cut in zip(counts.items(), cuts, strict=True)
            }
            progress("queries", done, total)
    typer.echo(f"{output}: {run.lines:,} hits of {total:,} queries")
    counts["document ids have white space, written with '_' instead"] = run.altered
    counts["scores tie for trec_eval, which orders them by document id"] = run.ties
    note_counts(counts)


def _print(answer: Answer, explain: bool) -> None:
    headers = ["rank", "score", "id", "document"] + ["terms"] * explain
    rows = []
    for rank, hit in enumerate(answer.hits, 1):
        row = [str(rank), f"{hit.score:.3f}", hit.id, _snippet(hit)]
        if explain:
            shown = [
                f"{one.token or one.term} {one.product * answer.score_scale:.2f}"
                for one in hit.contributions
            ]
            row.append(
                ", ".join(shown[:TERMS_SHOWN]) + (", ..." if len(shown) > TERMS_SHOWN else "")
            )
        rows.append(row)
    print_table(headers, rows, left=["id", "document", "terms"])
    typer.echo(
        f"{len(answer.hits):,} of {answer.matched:,} matching documents, {answer.query_terms} "
        f"query terms, {answer.postings:,} postings read"
    )
    typer.echo(
        ", ".join(f"{stage} {spent / 1e6:.2f} ms" for stage, spent in answer.timings.items())
    )
    cuts = {
        "tokens": answer.cut.tokens,
        "terms": answer.cut.terms,
        "impacts": answer.cut.impacts,
    }
    if cut := ", ".join(f"{count} {what}" for what, count in cuts.items() if count):
        typer.echo(f"cut from the query: {cut}")


def _snippet(hit: Hit) -> str:
    if hit.document is None:
        return ""
    words = " ".join(f"{hit.document.title}: {hit.document.text}".removeprefix(": ").split())
    return words if len(words) <= SNIPPET_CHARACTERS else words[: SNIPPET_CHARACTERS - 3] + "..."


def _plain(text: str, answer: Answer) -> dict[str, object]:
    """Return an answer as plain values; ``score = integer_score * score_scale``."""
    hits = []
    for rank, hit in enumerate(answer.hits, 1):
        document = asdict(hit.document) if hit.document else {}
        plain = {"rank": rank, "score": hit.score, "integer_score": hit.integer_score, **document}
        if hit.vector is not None:
            plain["vector"] = hit.vector
        if hit.contributions:
            plain["contributions"] = [
                {name: value for name, value in asdict(one).items() if name != "score"}
                for one in hit.contributions
            ]
        hits.append(plain)
    return {
        "query": text,
        "hits": hits,
        "matched_documents": answer.matched,
        "postings_read": answer.postings,
        "query_terms": answer.query_terms,
        "cut": {
            "tokens": answer.cut.tokens,
            "terms": answer.cut.terms,
            "impacts": answer.cut.impacts,
        },
        "nanoseconds": answer.timings,
        "score_scale": answer.score_scale,
        "generation": answer.generation,
        "model_fingerprint": answer.model_fingerprint,
    }
