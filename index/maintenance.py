"""verify: an index against its own document stores, and its scorer against the oracle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import CspladeError
from ..core.vectors import MAX_QUERY_TERMS, ImpactBatch
from .read.snapshot import Shard
from .storage.segment import read_segment
from .write.build import derive_segment

if TYPE_CHECKING:
    from .read.reader import Index

SAMPLE_K = 1000


@dataclass(frozen=True)
class VerifyReport:
    """What was checked and what was found wrong.

    Attributes:
        documents: ordinals in the index.
        segments: segment files read again, hashed and derived anew from the store.
        sampled: documents whose vectors were searched by scorer and oracle.
        checks: one line for each kind of check that was made.
        problems: one line for each thing that is wrong; empty means sound.
    """

    documents: int
    segments: int
    sampled: int
    checks: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return not self.problems


def verify(index: Index, shards: list[Shard], sample: int, seed: int) -> VerifyReport:
    """Run every check; problems are collected, not raised."""
    problems: list[str] = []
    segments = 0
    for shard in shards:
        problems += shard.store.problems()
        for one in shard.segments:
            segments += 1
            path = shard.directory / one.manifest.file
            try:
                read_segment(shard.directory, one.manifest)
                one.segment.check()
                last = one.manifest.first_ordinal + one.manifest.documents
                derived = derive_segment(
                    shard.store,
                    one.manifest.first_ordinal,
                    last,
                    index.manifest.block_size,
                    lambda _: None,
                )
            except CspladeError as error:
                problems.append(str(error) if str(path) in str(error) else f"{path}: {error}")
                continue
            problems += [
                f"{path}: {name} differs from what the document store gives"
                for name, stored in vars(one.segment).items()
                if not np.array_equal(stored, getattr(derived, name))
            ]
    sampled, mismatches = _sample(index, sample, seed)
    return VerifyReport(
        documents=index.manifest.documents,
        segments=segments,
        sampled=sampled,
        checks=(
            "document stores: SQLite integrity, ordinals without gaps",
            "segments: size, SHA-256, order and range of every posting",
            "segments: equal to those derived anew from the document stores",
            f"{sampled} documents' vectors as queries, top {SAMPLE_K}: scorer equal to the oracle",
        ),
        problems=tuple(problems + mismatches),
    )


def _sample(index: Index, sample: int, seed: int) -> tuple[int, list[str]]:
    """Search sampled documents' own vectors by scorer and oracle; returns how many, and the
    differences.
    """
    counts = np.array([shard.documents for shard in index.manifest.shards])
    total = int(counts.sum())
    drawn = np.sort(np.random.default_rng(seed).choice(total, min(sample, total), replace=False))
    ends = np.cumsum(counts)
    places = np.searchsorted(ends, drawn, side="right")
    shards = np.array([shard.shard for shard in index.manifest.shards])[places]
    ordinals = drawn - (ends - counts)[places]
    stored = index.vectors(shards, ordinals)
    rows = [(terms[:MAX_QUERY_TERMS], impacts[:MAX_QUERY_TERMS]) for terms, impacts in stored]
    queries = ImpactBatch(
        np.concatenate([[0], np.cumsum([len(terms) for terms, _ in rows])]).astype(np.int64),
        np.concatenate([terms for terms, _ in rows] + [np.empty(0, np.int32)]),
        np.concatenate([impacts for _, impacts in rows] + [np.empty(0, np.int32)]),
        index.manifest.query_scale,
    )
    found, truth = index.search(queries, SAMPLE_K), index.oracle(queries, SAMPLE_K)
    problems = []
    for i, (shard, ordinal) in enumerate(zip(shards, ordinals, strict=True)):
        pairs = zip(found.row(i), truth.row(i), strict=True)
        equal = all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)
        if (
            not equal
            or found.matched[i] != truth.matched[i]
            or found.postings[i] != truth.postings[i]
        ):
            problems.append(
                f"{index.path}: scorer and oracle differ on the vector of shard {shard}, ordinal "
                f"{ordinal}"
            )
    return len(rows), problems
