"""``csplade train``: start, idf, adapt, calibrate, mine, table, contrastive, distill. Long ones resume where they were stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .console import progress_bars

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Adapt and train an encoder."
)

Collections = Annotated[
    list[Path],
    typer.Option(
        "--data", help="BEIR folder to read passages from; may be repeated.", exists=True, file_okay=False
    ),
]
Model = Annotated[Path, typer.Option(help="Model directory to start from.", exists=True, file_okay=False)]
Out = Annotated[Path, typer.Option(help="Model directory to write.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimizer steps.")]
Rate = Annotated[float, typer.Option(min=0.0, help="Peak learning rate; cosine, 5 % warm-up.")]
Rank = Annotated[int, typer.Option(min=1, help="LoRA rank.")]
Seed = Annotated[int, typer.Option(help="Seed of sampling and initialization.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


@app.command()
def start(
    data: Collections,
    out: Out,
    variant: Annotated[str, typer.Option(help="causal, echo or bidirectional.")] = "bidirectional",
    layers: Annotated[int, typer.Option(min=1, help="First layers of the base to keep.")] = 6,
    bias_strength: Annotated[float, typer.Option(help="Raw-logit units of head bias per unit of IDF.")] = 1.5,
    fold: Annotated[bool, typer.Option(help="Let word forms of one stem share a term.")] = True,
) -> None:
    """Write the model that training starts from: kept terms and an IDF head bias over the embedded base."""
    from ..model.training.start import start as write_start

    write_start(_passages(data), out, variant=variant, layers=layers, bias_strength=bias_strength, fold=fold)
    typer.echo(out)


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
    """Adaptation: CE on logits and on activated logits over packed text."""
    from ..model.training.adapt import adapt as run
    from ..model.training.trainer import Schedule

    schedule = Schedule(steps=steps, rate=rate, batch=batch, rank=rank, seed=seed, device=device)
    run(model, _passages(data), out, schedule, length=length)
    typer.echo(out)


@app.command()
def calibrate(
    model: Model,
    data: Collections,
    out: Out,
    steps: Steps = 200,
    rate: Rate = 5e-4,
    batch: Annotated[int, typer.Option(min=1, help="Texts per step.")] = 24,
    length: Annotated[int, typer.Option(min=8, help="Most tokens of a text.")] = 96,
    peak: Annotated[float, typer.Option(min=0.0, help="Weight that the rarest term should get.")] = 1.6,
    other: Annotated[
        float, typer.Option(min=0.0, help="Weight of the push on terms that a text does not contain.")
    ] = 0.01,
    rank: Rank = 64,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Give activations an absolute, IDF-like scale on a text's own terms, sparse elsewhere."""
    from ..model.training.calibrate import calibrate as run
    from ..model.training.trainer import Schedule

    schedule = Schedule(steps=steps, rate=rate, batch=batch, rank=rank, seed=seed, device=device)
    run(model, _passages(data), out, schedule, length=length, peak=peak, other=other)
    typer.echo(out)


@app.command()
def mine(
    data: Annotated[
        Path, typer.Option(help="BEIR folder with the split's judgments.", exists=True, file_okay=False)
    ],
    out: Annotated[Path, typer.Option(help="JSON-lines file to write.")],
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="bm25 (the default), a sentence-transformers directory or a model directory; may be repeated."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Judgments to read.")] = "train",
    depth: Annotated[int, typer.Option(min=2, help="Passages proposed by each teacher per query.")] = 30,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many queries, drawn by the seed.")
    ] = None,
    pool: Annotated[
        int | None,
        typer.Option(min=2, help="Mine in this many passages, drawn by the seed, and all judged ones."),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Hard negatives of every training query, and the scores of all teachers for all candidates."""
    from ..model.training import mine as mining
    from ..model.training.data import Collection
    from ..model.training.teachers import load_teacher

    teachers = [load_teacher(spec, device) for spec in teacher or ["bm25"]]
    with progress_bars("") as show:
        mining.mine(
            Collection.load(data, split),
            out,
            teachers,
            depth=depth,
            limit=limit,
            pool=pool,
            seed=seed,
            progress=show,
        )
    typer.echo(out)


Mined = Annotated[
    list[str],
    typer.Option(
        "--data", help="FOLDER:MINED_FILE[:SHARE], a BEIR folder and its mined candidates; may be repeated."
    ),
]
Teachers = Annotated[
    list[str], typer.Option(help="Name of scores in the mined files; several are combined; may be repeated.")
]
Dev = Annotated[
    list[Path] | None,
    typer.Option(
        "--dev",
        help="BEIR folder whose dev split is watched; the best weights on it are kept; may be repeated.",
        exists=True,
        file_okay=False,
    ),
]
Queries = Annotated[int, typer.Option(min=2, help="Queries per step.")]
Negatives = Annotated[int, typer.Option(min=0, help="Mined negatives per query.")]
Temperature = Annotated[float, typer.Option(help="Scores are divided by it.")]
QueryFlops = Annotated[float, typer.Option(help="Weight of the query FLOPS regularizer.")]
QueryL1 = Annotated[float, typer.Option(help="Weight of the query L1 regularizer.")]
DocumentFlops = Annotated[float, typer.Option(help="Weight of the document FLOPS regularizer.")]
DocumentL1 = Annotated[float, typer.Option(help="Weight of the document L1 regularizer.")]
TrainTable = Annotated[
    bool, typer.Option(help="Let the table of a lexical query encoder learn too, or documents alone.")
]
RampSteps = Annotated[
    int | None, typer.Option(min=0, help="Steps of the regularizers' quadratic ramp; default a third.")
]
DocumentTokens = Annotated[int, typer.Option(min=8, help="Passages are cut here while training.")]
Representation = Annotated[
    str, typer.Option(help="sparse, or dense: the normalized state of an end-of-text token, for comparison.")
]
Patience = Annotated[
    int | None, typer.Option(min=1, help="Looks at the dev splits without a better one before it stops.")
]
EvaluateEvery = Annotated[int, typer.Option(min=1, help="Steps between looks at the dev splits.")]
Accumulate = Annotated[int, typer.Option(min=1, help="Batches per optimizer step.")]
Checkpointing = Annotated[
    bool, typer.Option(help="Compute activations again in the backward pass, for less memory.")
]


@app.command()
def contrastive(
    model: Model,
    data: Mined,
    out: Out,
    steps: Steps = 600,
    rate: Rate = 6e-5,
    batch: Queries = 24,
    negatives: Negatives = 1,
    temperature: Temperature = 0.4,
    query_flops: QueryFlops = 0.03,
    query_l1: QueryL1 = 0.0,
    document_flops: DocumentFlops = 0.03,
    document_l1: DocumentL1 = 0.0,
    ramp_steps: RampSteps = None,
    document_tokens: DocumentTokens = 96,
    representation: Representation = "sparse",
    train_table: TrainTable = True,
    dev: Dev = None,
    evaluate_every: EvaluateEvery = 100,
    patience: Patience = None,
    accumulate: Accumulate = 1,
    gradient_checkpointing: Checkpointing = False,
    rank: Rank = 64,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """InfoNCE over in-batch and mined hard negatives, with FLOPS or L1 regularizers."""
    _retrieval(
        model,
        data,
        out,
        dev,
        schedule={
            "steps": steps, "rate": rate, "batch": batch, "rank": rank, "seed": seed, "device": device,
            "evaluate_every": evaluate_every, "patience": patience, "accumulate": accumulate,
            "gradient_checkpointing": gradient_checkpointing,
        },
        objective={
            "temperature": temperature, "negatives": negatives, "query_flops": query_flops, "query_l1": query_l1,
            "document_flops": document_flops, "document_l1": document_l1, "ramp_steps": ramp_steps,
            "document_tokens": document_tokens,
            "representation": representation, "train_table": train_table,
        },
    )  # fmt: skip


@app.command()
def distill(
    model: Model,
    data: Mined,
    out: Out,
    teacher: Teachers,
    nce: Annotated[float, typer.Option(help="Weight of InfoNCE; 0 learns from the teachers alone.")] = 0.5,
    kl: Annotated[
        float, typer.Option(help="Weight of KL(teacher || student) over each query's candidates.")
    ] = 0.5,
    margin_mse: Annotated[float, typer.Option(help="Weight of MarginMSE over each query's negatives.")] = 0.0,
    steps: Steps = 600,
    rate: Rate = 6e-5,
    batch: Queries = 12,
    negatives: Negatives = 3,
    temperature: Temperature = 0.4,
    query_flops: QueryFlops = 0.03,
    query_l1: QueryL1 = 0.0,
    document_flops: DocumentFlops = 0.03,
    document_l1: DocumentL1 = 0.0,
    ramp_steps: RampSteps = None,
    document_tokens: DocumentTokens = 96,
    representation: Representation = "sparse",
    train_table: TrainTable = True,
    dev: Dev = None,
    evaluate_every: EvaluateEvery = 100,
    patience: Patience = None,
    accumulate: Accumulate = 1,
    gradient_checkpointing: Checkpointing = False,
    rank: Rank = 64,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Learn from teachers' scores of mined candidates: KL or MarginMSE, with InfoNCE beside it or alone."""
    _retrieval(
        model,
        data,
        out,
        dev,
        schedule={
            "steps": steps, "rate": rate, "batch": batch, "rank": rank, "seed": seed, "device": device,
            "evaluate_every": evaluate_every, "patience": patience, "accumulate": accumulate,
            "gradient_checkpointing": gradient_checkpointing,
        },
        objective={
            "nce": nce, "kl": kl, "margin_mse": margin_mse, "teachers": tuple(teacher),
            "temperature": temperature, "negatives": negatives, "query_flops": query_flops, "query_l1": query_l1,
            "document_flops": document_flops, "document_l1": document_l1, "ramp_steps": ramp_steps,
            "document_tokens": document_tokens,
            "representation": representation, "train_table": train_table,
        },
    )  # fmt: skip


@app.command()
def idf(
    corpus: Annotated[
        list[Path],
        typer.Option(
            help="JSON lines with _id, text and perhaps title; .gz accepted; may be repeated.", dir_okay=False
        ),
    ],
    out: Out,
    model: Annotated[
        str, typer.Option(help="Model whose documents are kept: embedded or a directory.")
    ] = "embedded",
    counts: Annotated[
        bool, typer.Option(help="Count a term as often as a query repeats it, as BM25 does; else once.")
    ] = False,
    prior: Annotated[
        float,
        typer.Option(
            min=0.0, help="Weight of BM25's share of a document's own terms, on top of the model's weights."
        ),
    ] = 0.0,
) -> None:
    """Make queries inference-free: weigh their tokens by IDF over a corpus. The document side stays as it is."""
    from ..model import golden
    from ..model.checkpoint import resolve
    from ..model.lexical import train_idf
    from ..service.corpus import joined_text, read_corpus
    from .console import progress_bars

    total = sum(1 for path in corpus for _ in read_corpus(path))
    done = 0
    with progress_bars("texts") as show:

        def advance(texts: int) -> None:
            nonlocal done
            done += texts
            show("counting", done, total)

        texts = (joined_text(document) for path in corpus for _, document, _ in read_corpus(path))
        train_idf(resolve(model), out, texts, counts=counts, prior=prior, progress=advance)
    golden.certify(out)
    typer.echo(out)


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
    """Learn from teachers how much each term of a query matters. Takes minutes: no document is encoded."""
    from ..model import golden
    from ..model.training.table import train_table

    with progress_bars("") as show:
        train_table(model, _sources(data), out, teacher, ridge=ridge, steps=steps, progress=show)
    golden.certify(out)
    typer.echo(out)


def _sources(data: list[str]) -> list[Any]:
    from ..errors import InputError
    from ..model.training.data import Collection
    from ..model.training.mine import read_mined
    from ..model.training.pairs import Source

    sources = []
    for entry in data:
        folder, _, rest = entry.partition(":")
        mined, _, share = rest.partition(":")
        if not mined:
            raise InputError(
                f"--data {entry!r}: needs FOLDER:MINED_FILE[:SHARE]; make the file with: csplade train mine"
            )
        collection = Collection.load(Path(folder), "train")
        sources.append(Source(collection, read_mined(Path(mined), collection), float(share or 1)))
    return sources


def _retrieval(
    model: Path,
    data: list[str],
    out: Path,
    dev: list[Path] | None,
    schedule: dict[str, Any],
    objective: dict[str, Any],
) -> None:
    from ..model.training.dev import DevSplit
    from ..model.training.retrieval import Objective, train_retrieval
    from ..model.training.trainer import Schedule

    wanted, planned = Objective(**objective), Schedule(**schedule)
    watched = [DevSplit.load(folder) for folder in dev or ()]
    train_retrieval(model, _sources(data), out, planned, wanted, watched)
    typer.echo(out)


def _passages(folders: list[Path]) -> list[str]:
    from ..model.training.data import Collection

    return [text for folder in folders for text in Collection.load(folder).passages.values()]
