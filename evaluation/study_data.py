"""A collection for the study from one that has ``test`` judgments only."""

from __future__ import annotations

from pathlib import Path


def split_judgments(folder: Path, out: Path) -> Path:
    """Copy a BEIR folder that has ``test`` judgments only, two of three queries as ``train`` and
    the third as ``dev``.
    """
    (out / "qrels").mkdir(parents=True, exist_ok=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (out / name).write_bytes((folder / name).read_bytes())
    with open(folder / "qrels" / "test.tsv", encoding="utf-8") as file:
        header, *lines = file.read().splitlines()
    numbers = {
        query: i for i, query in enumerate(dict.fromkeys(line.split("\t")[0] for line in lines))
    }
    for split, chosen in (("train", (0, 1)), ("dev", (2,))):
        kept = [line for line in lines if numbers[line.split("\t")[0]] % 3 in chosen]
        (out / "qrels" / f"{split}.tsv").write_text(
            "\n".join([header, *kept]) + "\n", encoding="utf-8"
        )
    return out
