"""``csplade study``: the tables of the study."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from .console import note


def study(
    work: Annotated[
        Path, typer.Option(help="Directory for models and logs; a stopped study resumes from it.")
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="BEIR folder with train and dev judgments; repeatable; default: the example "
            "collection.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    scale: Annotated[
        Literal["toy", "full"], typer.Option(help="toy: minutes; full: two hours of two cores.")
    ] = "toy",
    tables: Annotated[str, typer.Option(help="Letters of the tables to make.")] = "abcde",
    teacher: Annotated[
        list[str] | None,
        typer.Option(help="Teacher, as for csplade train mine; repeatable; default: bm25."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random choices.")] = 0,
) -> None:
    """Train small models and print what adaptation, attention, losses, size, regularizers and caps
    do to them.
    """
    from ..core.errors import InputError
    from ..evaluation.study import Study
    from ..evaluation.study_data import split_judgments
    from ..evaluation.study_models import SCALES, StudyModels
    from ..model.training.teachers import load_teacher

    if unknown := set(tables) - set("abcde"):
        raise InputError(f"--tables has {sorted(unknown)[0]!r}, the letters are a to e")
    with TemporaryDirectory() as scratch:
        examples = Path(__file__).parent.parent / "examples"
        models = StudyModels(
            data or [split_judgments(examples, Path(scratch) / "examples")],
            work,
            SCALES[scale],
            lambda: [load_teacher(spec) for spec in teacher or ["bm25"]],
            seed=seed,
            progress=lambda what: note(f"training {what}"),
        )
        for table in Study(models).tables(tables):
            typer.echo(table.markdown())
