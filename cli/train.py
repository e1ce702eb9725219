"""``csplade train``: start, adapt, calibrate, mine, contrastive. Every command resumes where it was stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

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
) -> None:
    """Write the model that training starts from: kept terms and an IDF head bias over the embedded base."""
    from ..model.training.start import start as write_start

    write_start(_passages(data), out, variant=variant, layers=layers, bias_strength=bias_strength)
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
    split: Annotated[str, typer.Option(help="Judgments to read.")] = "train",
    depth: Annotated[int, typer.Option(min=2, help="Passages asked of BM25 per query.")] = 30,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many queries, drawn by the seed.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """BM25 hard negatives of every training query."""
    from ..model.training import mine as mining
    from ..model.training.data import Collection

    collection = Collection.load(data, split)
    total = min(limit or len(collection.positives), len(collection.positives))
    with typer.progressbar(length=total, label=f"mining {collection.name}", file=sys.stderr) as bar:
        mining.mine(collection, out, depth=depth, limit=limit, seed=seed, progress=bar.update)
    typer.echo(out)


@app.command()
def contrastive(
    model: Model,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            help="FOLDER:MINED_FILE[:SHARE], a BEIR folder and its mined negatives; may be repeated.",
        ),
    ],
    out: Out,
    steps: Steps = 600,
    rate: Rate = 6e-5,
    batch: Annotated[int, typer.Option(min=2, help="Queries per step.")] = 24,
    negatives: Annotated[int, typer.Option(min=0, help="Hard negatives per query.")] = 1,
    temperature: Annotated[float, typer.Option(min=1e-6, help="Scores are divided by it.")] = 0.4,
    query_flops: Annotated[
        float, typer.Option(min=0.0, help="Weight of the query FLOPS regularizer.")
    ] = 0.03,
    document_flops: Annotated[
        float, typer.Option(min=0.0, help="Weight of the document FLOPS regularizer.")
    ] = 0.03,
    ramp_steps: Annotated[
        int | None, typer.Option(min=0, help="Steps of the regularizers' quadratic ramp; default a third.")
    ] = None,
    document_tokens: Annotated[int, typer.Option(min=8, help="Passages are cut here while training.")] = 96,
    rank: Rank = 64,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """InfoNCE over in-batch and BM25 hard negatives, with FLOPS regularizers."""
    from ..errors import InputError
    from ..model.training.contrastive import Source
    from ..model.training.contrastive import contrastive as run
    from ..model.training.data import Collection
    from ..model.training.mine import read_negatives
    from ..model.training.trainer import Schedule

    sources = []
    for entry in data:
        folder, _, rest = entry.partition(":")
        mined, _, share = rest.partition(":")
        if not mined:
            raise InputError(
                f"--data {entry!r}: needs FOLDER:MINED_FILE[:SHARE]; make the file with: csplade train mine"
            )
        sources.append(
            Source(Collection.load(Path(folder), "train"), read_negatives(Path(mined)), float(share or 1))
        )
    run(
        model,
        sources,
        out,
        Schedule(steps=steps, rate=rate, batch=batch, rank=rank, seed=seed, device=device),
        negatives=negatives,
        temperature=temperature,
        query_flops=query_flops,
        document_flops=document_flops,
        ramp_steps=ramp_steps,
        document_tokens=document_tokens,
    )
    typer.echo(out)


def _passages(folders: list[Path]) -> list[str]:
    from ..model.training.data import Collection

    return [text for folder in folders for text in Collection.load(folder).passages.values()]
