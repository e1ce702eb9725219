"""``csplade train``: every phase of training; long ones resume where they were stopped."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .console import available_device, note, progress_bars

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Adapt and train an encoder.",
)

Collections = Annotated[
    list[Path],
    typer.Option(
        "--data",
        help="BEIR folder to read passages from; may be repeated.",
        exists=True,
        file_okay=False,
    ),
]
Model = Annotated[
    Path, typer.Option(help="Model directory to start from.", exists=True, file_okay=False)
]
Out = Annotated[Path, typer.Option(help="Model directory to write.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimizer steps.")]
Rate = Annotated[float, typer.Option(min=0.0, help="Peak learning rate; cosine, 5 % warm-up.")]
Rank = Annotated[int, typer.Option(min=1, help="LoRA rank.")]
Seed = Annotated[int, typer.Option(help="Seed of sampling and initialization.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", callback=available_device)]


@app.command()
def start(
    data: Collections,
    out: Out,
    variant: Annotated[str, typer.Option(help="causal, echo or bidirectional.")] = "bidirectional",
    layers: Annotated[int, typer.Option(min=1, help="First layers of the base to keep.")] = 6,
    bias_strength: Annotated[
        float, typer.Option(help="Raw-logit units of head bias per unit of IDF.")
    ] = 1.5,
    fold: Annotated[bool, typer.Option(help="Let word forms of one stem share a term.")] = True,
) -> None:
    """Write the model that training starts from: kept terms and a head bias over the base."""
    from ..model.checkpoint import base
    from ..model.training.start import start as write_start

    available = json.loads((base.pull() / "config.json").read_text())["num_hidden_layers"]
    if layers > available:
        raise typer.BadParameter(
            f"{layers} is too large; the base has {available} layers", param_hint="--layers"
        )
    done = write_start(
        _passages(data), out, variant=variant, layers=layers, bias_strength=bias_strength, fold=fold
    )
    _report(out, done)


@app.command()
def adapt(
    model: Model,
    data: Collections,
    out: Out,
    steps: Steps = 500,
    rate: Rate = 6e-4,
    batch: Annotated[int, typer.Option(min=1, help="Packed rows per step.")] = 8,
    length: Annotated[int, typer.Option(min=8, help="Tokens per packed row.")] = 128,
    rank: Rank = 64,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Adapt a model: CE on logits and on activated logits over packed text."""
    _check_tokens(model, length, "--length")
    from ..model.training.adapt import adapt as run
    from ..model.training.trainer import Schedule

    schedule = Schedule(steps=steps, rate=rate, batch=batch, rank=rank, seed=seed, device=device)
    _report(out, run(model, _passages(data), out, schedule, length=length))


@app.command()
def calibrate(
    model: Model,
    data: Collections,
    out: Out,
    steps: Steps = 200,
    rate: Rate = 5e-4,
    batch: Annotated[int, typer.Option(min=1, help="Texts per step.")] = 24,
    length: Annotated[int, typer.Option(min=8, help="Most tokens of a text.")] = 96,
    peak: Annotated[
        float, typer.Option(min=0.0, help="Weight that the rarest term should get.")
    ] = 1.6,
    other: Annotated[
        float,
        typer.Option(min=0.0, help="Weight of the push on terms that a text does not contain."),
    ] = 0.01,
    rank: Rank = 64,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Give activations an absolute, IDF-like scale on a text's own terms, sparse elsewhere."""
    _check_tokens(model, length, "--length")
    from ..model.training.calibrate import calibrate as run
    from ..model.training.trainer import Schedule

    schedule = Schedule(steps=steps, rate=rate, batch=batch, rank=rank, seed=seed, device=device)
    texts = _passages(data)
    _report(out, run(model, texts, out, schedule, length=length, peak=peak, other=other))


@app.command()
def mine(
    data: Annotated[
        Path,
        typer.Option(help="BEIR folder with the split's judgments.", exists=True, file_okay=False),
    ],
    out: Annotated[Path, typer.Option(help="JSON-lines file to write.")],
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="bm25 (the default), a sentence-transformers directory or a model directory; may "
            "be repeated."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Judgments to read.")] = "train",
    depth: Annotated[
        int, typer.Option(min=2, help="Passages proposed by each teacher per query.")
    ] = 30,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many queries, drawn by the seed.")
    ] = None,
    pool: Annotated[
        int | None,
        typer.Option(
            min=2, help="Mine in this many passages, drawn by the seed, and all judged ones."
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Mine hard negatives of every training query, with the scores of all teachers."""
    from ..model.training import mine as mining
    from ..model.training.data import Collection
    from ..model.training.teachers import load_teacher

    teachers = [load_teacher(spec, device) for spec in teacher or ["bm25"]]
    with progress_bars("") as show:
        done = mining.mine(
            Collection.load(data, split),
            out,
            teachers,
            depth=depth,
            limit=limit,
            pool=pool,
            seed=seed,
            progress=show,
        )
    _report(out, done)


Mined = Annotated[
    list[str],
    typer.Option(
        "--data",
        help="FOLDER:MINED_FILE[:SHARE], a BEIR folder and its mined candidates; may be repeated.",
    ),
]
Teachers = Annotated[
    list[str],
    typer.Option(help="Name of scores in the mined files; several are combined; may be repeated."),
]
Queries = Annotated[int, typer.Option(min=2, help="Queries per step.")]
Negatives = Annotated[int, typer.Option(min=0, help="Mined negatives per query.")]


def _retrieval(
    model: Model,
    data: Mined,
    out: Out,
    steps: Steps = 600,
    rate: Rate = 6e-5,
    temperature: Annotated[float, typer.Option(help="Scores are divided by it.")] = 0.4,
    query_flops: Annotated[
        float, typer.Option(help="Weight of the query FLOPS regularizer.")
    ] = 0.03,
    query_l1: Annotated[float, typer.Option(help="Weight of the query L1 regularizer.")] = 0.0,
    document_flops: Annotated[
        float, typer.Option(help="Weight of the document FLOPS regularizer.")
    ] = 0.03,
    document_l1: Annotated[
        float, typer.Option(help="Weight of the document L1 regularizer.")
    ] = 0.0,
    ramp_steps: Annotated[
        int | None,
        typer.Option(min=0, help="Steps of the regularizers' quadratic ramp; default a third."),
    ] = None,
    document_tokens: Annotated[
        int, typer.Option(min=8, help="Passages are cut here while training.")
    ] = 96,
    representation: Annotated[
        Literal["sparse", "dense"],
        typer.Option(help="dense: the normalized state of an end-of-text token, for comparison."),
    ] = "sparse",
    train_table: Annotated[
        bool,
        typer.Option(
            help="Let the table of a lexical query encoder learn too, or documents alone."
        ),
    ] = True,
    dev: Annotated[
        list[Path] | None,
        typer.Option(
            "--dev",
            help="BEIR folder whose dev split is watched; the best weights on it are kept; may be "
            "repeated.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    evaluate_every: Annotated[
        int, typer.Option(min=1, help="Steps between looks at the dev splits.")
    ] = 100,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Looks at the dev splits without a better one before it stops."),
    ] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches per optimizer step.")] = 1,
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Compute activations again in the backward pass, for less memory.")
    ] = False,
    rank: Rank = 64,
    seed: Seed = 0,
    device: Device = "cpu",
    **own: Any,
) -> None:
    _check_tokens(model, document_tokens, "--document-tokens")
    from ..model.training.dev import DevSplit
    from ..model.training.retrieval import Objective, train_retrieval
    from ..model.training.trainer import Schedule

    schedule = Schedule(
        steps=steps, rate=rate, batch=own.pop("batch"), rank=rank, seed=seed, device=device,
        evaluate_every=evaluate_every, patience=patience, accumulate=accumulate,
        gradient_checkpointing=gradient_checkpointing,
    )  # fmt: skip
    objective = Objective(
        temperature=temperature, query_flops=query_flops, query_l1=query_l1,
        document_flops=document_flops, document_l1=document_l1, ramp_steps=ramp_steps,
        document_tokens=document_tokens, representation=representation, train_table=train_table,
        **own,
    )  # fmt: skip
    watched = [DevSplit.load(folder) for folder in dev or ()]
    _report(out, train_retrieval(model, _sources(data), out, schedule, objective, watched))


def _with_options_of(
    shared: Callable[..., None],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of ``shared`` beside its own; it gets them as keywords."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        found = [
            inspect.signature(one, eval_str=True).parameters.values() for one in (shared, command)
        ]
        options = [
            one.replace(kind=one.KEYWORD_ONLY)
            for some in found
            for one in some
            if one.kind != one.VAR_KEYWORD
        ]
        command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in options}
        return command

    return decorate


@app.command()
@_with_options_of(_retrieval)
def contrastive(batch: Queries = 24, negatives: Negatives = 1, **shared: Any) -> None:
    """Train by InfoNCE over in-batch and mined negatives, with FLOPS or L1 regularizers."""
    _retrieval(batch=batch, negatives=negatives, **shared)


@app.command()
@_with_options_of(_retrieval)
def distill(
    teacher: Teachers,
    nce: Annotated[
        float, typer.Option(help="Weight of InfoNCE; 0 learns from the teachers alone.")
    ] = 0.5,
    kl: Annotated[
        float, typer.Option(help="Weight of KL(teacher || student) over each query's candidates.")
    ] = 0.5,
    margin_mse: Annotated[
        float, typer.Option(help="Weight of MarginMSE over each query's negatives.")
    ] = 0.0,
    batch: Queries = 12,
    negatives: Negatives = 3,
    **shared: Any,
) -> None:
    """Learn from teachers' scores of mined candidates: KL, MarginMSE, InfoNCE."""
    _retrieval(
        teachers=tuple(teacher),
        nce=nce,
        kl=kl,
        margin_mse=margin_mse,
        batch=batch,
        negatives=negatives,
        **shared,
    )


@app.command()
def idf(
    corpus: Annotated[
        list[Path],
        typer.Option(
            help="JSON lines with _id, text and perhaps title; .gz accepted; may be repeated.",
            dir_okay=False,
        ),
    ],
    out: Out,
    model: Annotated[
        str, typer.Option(help="Model whose documents are kept: embedded or a directory.")
    ] = "embedded",
    counts: Annotated[
        bool,
        typer.Option(help="Count a term as often as a query repeats it, as BM25 does; else once."),
    ] = False,
    prior: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Weight of BM25's share of a document's own terms, on top of the model's weights.",
        ),
    ] = 0.0,
    expansion: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Factor of the network's weights where queries are served by table and network.",
        ),
    ] = 0.0,
    collection_idf: Annotated[
        bool,
        typer.Option("--collection-idf", help="Indexes weigh queries by their own IDF as well."),
    ] = False,
) -> None:
    """Make queries inference-free: weigh their tokens by IDF over a corpus.

    The document side stays as it is.
    """
    from ..model.checkpoint.layout import resolve
    from ..model.training.idf import train_idf

    texts = _Texts(corpus)
    total, counted = sum(1 for _ in texts), 0
    with progress_bars("texts") as show:

        def advance(batch: int) -> None:
            nonlocal counted
            counted += batch
            show("counting", counted, total)

        done = train_idf(
            resolve(model),
            out,
            texts,
            counts=counts,
            prior=prior,
            expansion=expansion,
            collection_idf=collection_idf,
            progress=advance,
        )
    _report(out, done)


@app.command()
def table(
    model: Model,
    data: Mined,
    out: Out,
    teacher: Teachers,
    ridge: Annotated[
        float, typer.Option(min=0.0, help="Holds weights that training queries say little about.")
    ] = 3e-4,
    steps: Annotated[int, typer.Option(min=1, help="Steps over all candidates.")] = 80,
) -> None:
    """Learn from teachers how much each term of a query matters.

    It takes minutes, since no document is encoded.
    """
    from ..model.training.table import train_table

    with progress_bars("") as show:
        done = train_table(
            model, _sources(data), out, teacher, ridge=ridge, steps=steps, progress=show
        )
    _report(out, done)


class _Texts:
    """The texts of corpora, read anew each time that they are asked for."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __iter__(self) -> Iterator[str]:
        from ..core.corpus import read_corpus

        return (document.full_text for path in self.paths for document in read_corpus(path))


def _report(out: Path, done: bool) -> None:
    """Print what was written, and say so where it had been written before."""
    if not done:
        note(f"{out}: made before with the same settings, model and data; nothing to do")
    typer.echo(out)


def _sources(data: list[str]) -> list[Any]:
    from ..core.errors import InputError
    from ..model.training.data import Collection
    from ..model.training.mine import read_mined
    from ..model.training.pairs import Source

    sources = []
    for entry in data:
        folder, _, rest = entry.partition(":")
        mined, _, share = rest.partition(":")
        if not mined:
            raise InputError(
                f"--data {entry!r}: needs FOLDER:MINED_FILE[:SHARE]; make the file with: csplade "
                "train mine"
            )
        collection = Collection.load(Path(folder), "train")
        try:
            weight = float(share or 1)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise InputError(f"--data {entry!r}: the share is {share!r}, must be a number above 0")
        sources.append(Source(collection, read_mined(Path(mined), collection), weight))
    return sources


def _passages(folders: list[Path]) -> list[str]:
    from ..model.training.data import Collection

    return [text for folder in folders for text in Collection.load(folder).passages.values()]


def _check_tokens(model: Path, tokens: int, option: str) -> None:
    """Reject texts that are longer than the model has positions for; echo reads a text twice."""
    from ..model import Manifest
    from ..model.checkpoint.layout import find
    from ..model.checkpoint.positions import positions

    manifest = Manifest.load(model)
    most = positions(find(model, manifest).config) // (2 if manifest.variant == "echo" else 1)
    if most and tokens > most:
        raise typer.BadParameter(
            f"{tokens} is too large; {model} has positions for {most} tokens", param_hint=option
        )
