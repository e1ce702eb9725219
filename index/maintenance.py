"""Verify an index against its document stores and the oracle; repair segments from the stores."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from ..core.errors import CorruptError, CspladeError
from ..core.vectors import MAX_QUERY_TERMS, SparseBatch
from .read.reader import Index
from .read.snapshot import Snapshot
from .storage.derive import derive_segment, held_ordinals
from .storage.documents import DocumentStore
from .storage.manifest import IndexManifest, SegmentManifest
from .storage.segment import read_segment, write_segment

SAMPLE_K = 1000


@dataclass(frozen=True)
class VerifyReport:
    """What was checked and what was found wrong.

    Attributes:
        documents: ordinals in the index.
        segments: segment files read and hashed again, and compared with the store.
        sampled: documents whose vectors were searched by searcher and oracle.
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
        """Whether nothing is wrong."""
        return not self.problems


def verify(index: Index, sample: int = 100, seed: int = 0) -> VerifyReport:
    """Check an open index against its stores, and its searcher against the oracle.

    Args:
        index: whose open shards are checked.
        sample: how many documents' own vectors are searched by both.
        seed: which documents those are.

    Returns:
        What was checked; problems are collected, not raised.
    """
    problems: list[str] = []
    segments, now = 0, index.snapshot
    for shard in now.shards.values():
        problems += shard.store.problems()
        for one in shard.segments:
            segments += 1
            path = shard.directory / (one.manifest.file if one.manifest else "tail")
            try:
                if one.manifest is not None:
                    read_segment(shard.directory, one.manifest, now.manifest)
                derived = derive_segment(shard.store, one.ordinals, now.manifest)
            except CspladeError as error:
                problems.append(str(error) if str(path) in str(error) else f"{path}: {error}")
                continue
            problems += [
                f"{path}: {name} differs from what the document store gives"
                for name in (field.name for field in fields(one.segment))
                if not np.array_equal(getattr(one.segment, name), getattr(derived, name))
            ]
    try:
        sampled, mismatches = _sample(index.path, now, sample, seed)
    except CorruptError as error:
        sampled, mismatches = 0, [str(error)]
    return VerifyReport(
        documents=now.manifest.documents,
        segments=segments,
        sampled=sampled,
        checks=(
            "document stores: SQLite integrity, row checksums, ordinals without gaps",
            "segments: size, SHA-256, order and range of every posting",
            "segments: equal to those derived again from the document stores",
            f"{sampled} documents' vectors as queries, top {SAMPLE_K}: searcher equal to oracle",
        ),
        problems=tuple(dict.fromkeys(problems + mismatches)),
    )


def _sample(path: Path, index: Snapshot, sample: int, seed: int) -> tuple[int, list[str]]:
    """Search sampled documents' own vectors by searcher and oracle.

    Returns:
        How many, and a line for each difference.
    """
    counts = np.array([shard.documents for shard in index.shards.values()])
    total = int(counts.sum())
    drawn = np.sort(np.random.default_rng(seed).choice(total, min(sample, total), replace=False))
    ends = np.cumsum(counts)
    places = np.searchsorted(ends, drawn, side="right")
    shards = np.array(list(index.shards))[places]
    positions = drawn - (ends - counts)[places]
    ordinals = np.empty_like(positions)
    for number, shard in index.shards.items():
        ordinals[shards == number] = shard.ordinals_at(positions[shards == number])
    stored = index.vectors(shards, ordinals)
    rows = [(terms[:MAX_QUERY_TERMS], impacts[:MAX_QUERY_TERMS]) for terms, impacts in stored]
    queries = SparseBatch.join(rows).quantize_queries(index.manifest.max_impact)
    found, truth = index.search(queries, SAMPLE_K), index.oracle(queries, SAMPLE_K)
    problems = []
    for i, (number, ordinal) in enumerate(zip(shards, ordinals, strict=True)):
        pairs = zip(found.row(i), truth.row(i), strict=True)
        equal = all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)
        if (
            not equal
            or found.matched[i] != truth.matched[i]
            or found.postings[i] > truth.postings[i]  # blocks may be passed over
        ):
            problems.append(
                f"{path}: searcher and oracle differ on the vector of shard {number}, ordinal "
                f"{ordinal}"
            )
    return len(rows), problems


def describe(path: Path | str) -> IndexManifest:
    """Return the manifest of an index with what was written since its files were.

    Generation, largest impact and numbers of documents come from the stores, and no document is
    read. Postings of documents that are in no file yet are not counted.

    Raises:
        CorruptError: a broken manifest or store.
    """
    path = Path(path)
    manifest = IndexManifest.open(path)
    shards, largest = [], manifest.max_impact
    for shard in manifest.shards:
        store = DocumentStore.open(manifest.shard_directory(path, shard.shard))
        try:
            state, deleted = store.state(), len(store.deleted())
        finally:
            store.close()
        largest = max(largest, state.max_impact)
        shards.append(
            replace(shard, documents=state.rows, deleted=deleted, generation=state.generation)
        )
    return replace(manifest, max_impact=largest, shards=tuple(shards))


def repair(path: Path | str) -> list[Path]:
    """Derive every missing or altered segment of a finished index again from its document store.

    Returns:
        The files that were written.

    Raises:
        CorruptError: a broken manifest or store, or a store that does not give the segment of the
            manifest.
    """
    path = Path(path)
    manifest = IndexManifest.open(path)
    written = []
    for shard in manifest.shards:
        directory = manifest.shard_directory(path, shard.shard)
        store = DocumentStore.open(directory)
        for one in shard.segments:
            try:
                read_segment(directory, one, manifest)
            except CorruptError:
                written.append(_rewrite(directory, store, one, manifest))
        store.close()
    return written


def _rewrite(
    directory: Path, store: DocumentStore, wanted: SegmentManifest, manifest: IndexManifest
) -> Path:
    segment = derive_segment(store, held_ordinals(store, wanted), manifest)
    path = directory / wanted.file
    first, stop, generation = wanted.first_ordinal, wanted.stop_ordinal, wanted.generation
    if write_segment(path, segment, first, stop, generation) != wanted:
        raise CorruptError(
            f"{path}: the document store no longer gives this segment; build the index again"
        )
    return path
