"""Mine, for each training query, passages that teachers rank high, with all teachers' scores."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...core.files import sync_directory
from ...core.lines import read_jsonl
from ...core.resume import SETTINGS_FILE, is_finished, open_work, write_settings
from .data import Collection
from .teachers import Ranker, Teacher

CHUNK = 64  # queries between two saves


@dataclass(frozen=True)
class Mined:
    """Candidates of one query.

    Attributes:
        query: its id.
        positives: ids of judged passages.
        negatives: ids of passages that a teacher ranks high and nobody judged relevant.
        scores: teacher -> float32 scores of ``positives + negatives``.
    """

    query: str
    positives: list[str]
    negatives: list[str]
    scores: dict[str, NDArray[np.float32]]

    @property
    def candidates(self) -> list[str]:
        """All passages, positives first."""
        return self.positives + self.negatives


def mine(
    collection: Collection,
    out: Path,
    teachers: Sequence[Teacher],
    *,
    depth: int = 30,
    limit: int | None = None,
    pool: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> bool:
    """Write one JSON line per query; resume from ``OUT.work``.

    Returns whether there was anything to do; ``OUT.job.json`` says what the file was made with.

    A line has ``query``, ``positives``, ``negatives`` (ids) and ``scores``: by teacher, a number
    for each of ``positives + negatives``.

    Args:
        collection: with the queries and judgments of one split.
        out: the file to write, whole or not at all.
        teachers: at least one that ranks; each of those proposes its best ``depth`` passages, and
            all score all proposals.
        depth: passages proposed by each.
        limit: at most this many queries, drawn by ``seed``; all by default.
        pool: candidates come from this many passages drawn by ``seed`` and all judged ones; from
            all by default.
        seed: of these draws.
        progress: called with a label, what is done of it, and its total.

    Raises:
        InputError: no teacher that ranks, two of the same name, or ``out`` is something else.
        IncompatibleError: ``out`` or ``OUT.work`` was made with another setting, model or data.
    """
    names = [teacher.name for teacher in teachers]
    rankers = [teacher for teacher in teachers if isinstance(teacher, Ranker)]
    if not rankers or len(set(names)) < len(names):
        raise InputError(
            f"teachers are {names}: needs different names and one that can rank a collection, "
            "such as bm25"
        )
    show = progress or (lambda what, done, of: None)
    settings = {
        "collection": collection.digest(),
        "teachers": {teacher.name: teacher.identity for teacher in teachers},
        "depth": depth,
        "limit": limit,
        "pool": pool,
        "seed": seed,
    }
    note = out.with_name(out.name + ".job.json")
    if is_finished(out, note, settings):
        return False
    work = out.with_name(out.name + ".work")
    open_work(work, settings)
    random = np.random.default_rng(seed)
    queries = list(collection.positives)
    if limit is not None and limit < len(queries):
        chosen = random.choice(len(queries), limit, replace=False)
        queries = [queries[i] for i in sorted(chosen)]
    ids = list(collection.passages)
    if pool is not None and pool < len(ids):
        judged = {passage for query in queries for passage in collection.positives[query]}
        drawn = random.permutation(ids)[:pool].tolist()
        ids = sorted(judged.union(drawn))
    for teacher in teachers:
        teacher.prepare([collection.passages[passage] for passage in ids], work, show)
    place = {identity: i for i, identity in enumerate(ids)}
    rows = work / "rows.jsonl"
    done = _whole_lines(rows)
    with open(rows, "a", encoding="utf-8") as file:
        for start in range(done, len(queries), CHUNK):
            chunk = queries[start : start + CHUNK]
            texts = [collection.queries[query] for query in chunk]
            ranked = {teacher.name: teacher.rank(texts) for teacher in rankers}
            for row, query in enumerate(chunk):
                positives = [place[passage] for passage in collection.positives[query]]
                proposed = np.concatenate([_best(scores[row], depth) for scores in ranked.values()])
                _, first = np.unique(proposed, return_index=True)
                negatives = [int(i) for i in proposed[np.sort(first)] if i not in positives]
                candidates = np.array(positives + negatives)
                scores = {
                    teacher.name: ranked[teacher.name][row, candidates]
                    if isinstance(teacher, Ranker)
                    else teacher.pairs(texts[row], candidates)
                    for teacher in teachers
                }
                file.write(json.dumps(_line(query, positives, negatives, scores, ids)) + "\n")
            file.flush()
            show("queries", min(start + CHUNK, len(queries)), len(queries))
        os.fsync(file.fileno())
    write_settings(note, settings)
    rows.rename(out)
    sync_directory(out.parent)
    _clear(work, teachers)
    return True


def _clear(work: Path, teachers: Sequence[Teacher]) -> None:
    """Delete what mining put into its directory, and the directory if nothing else is in it."""
    for teacher in teachers:
        for block in work.glob(f"{glob.escape(teacher.name)}-*.npz"):
            block.unlink()
    (work / SETTINGS_FILE).unlink()
    if not any(work.iterdir()):
        work.rmdir()


def read_mined(path: Path, collection: Collection) -> list[Mined]:
    """Read a mined file.

    Raises:
        InputError: a broken line, or an id that the collection does not have.
    """
    found = []
    for line, row in read_jsonl(path):
        try:
            scores = {
                name: np.array(values, dtype=np.float32)
                for name, values in row.get("scores", {}).items()
            }
            mined = Mined(row["query"], row["positives"], row["negatives"], scores)
        except (KeyError, ValueError, TypeError, AttributeError):
            raise line.error(
                "not a line of a mined file; make it again with: csplade train mine"
            ) from None
        unknown = [passage for passage in mined.candidates if passage not in collection.passages]
        if unknown or mined.query not in collection.queries:
            raise line.error(
                f"{(unknown or [mined.query])[0]!r} is not in {collection.name}; "
                "is it mined from another one?"
            )
        if any(len(values) != len(mined.candidates) for values in scores.values()):
            raise line.error(f"needs a score for each of {len(mined.candidates)} candidates")
        found.append(mined)
    if not found:
        raise InputError(f"{path}: has no queries")
    return found


def _best(scores: NDArray[np.float32], depth: int) -> NDArray[np.int64]:
    """Return the places of the largest scores, largest first, ties to the smaller place."""
    depth = min(depth, len(scores))
    top = np.argpartition(-scores, depth - 1)[:depth]
    return top[np.lexsort((top, -scores[top]))]


def _line(
    query: str,
    positives: list[int],
    negatives: list[int],
    scores: dict[str, NDArray[np.float32]],
    ids: list[str],
) -> dict[str, Any]:
    return {
        "query": query,
        "positives": [ids[i] for i in positives],
        "negatives": [ids[i] for i in negatives],
        "scores": {
            name: [round(float(value), 5) for value in values] for name, values in scores.items()
        },
    }


def _whole_lines(path: Path) -> int:
    """Count the whole lines of an interrupted run, and cut off what follows the last of them."""
    if not path.is_file():
        return 0
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    with open(path, "r+b") as file:
        file.truncate(len(whole))
    return whole.count(b"\n")
