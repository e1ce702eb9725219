"""IndexBuilder: stores documents and vectors step by step, then derives the segments."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.document import Document
from ...core.errors import CorruptError, InputError, UnavailableError
from ...core.fields import Fields, check_fields
from ...core.files import sync_directory
from ...core.vectors import (
    SparseBatch,
    first_bad_weight,
)
from ...kernels.score.types import MAX_BLOCK_DOCUMENTS
from ..storage.derive import derive_segment
from ..storage.manifest import (
    BUILDING_FILE,
    FORMAT_VERSION,
    INDEX_FILE,
    IndexManifest,
    ShardManifest,
)
from ..storage.segment import write_segment
from ..storage.wide import highest_impact
from ..storage.writable import NewRow, WritableStore
from .fidelity import choose_scale, measure
from .operations import checked_metadata

# 16 blocks of 2^14 documents with 119 postings each: about 100 MB, which the builder holds in
# memory.
SEGMENT_BLOCKS = 16
MAX_DOCUMENTS = 2**32 - 1
# Documents whose float32 weights are kept, to measure what rounding costs; at least half of it.
SAMPLE_DOCUMENTS = 4096
OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class BuildOptions:
    """What an index is built with; constant through its life.

    Attributes:
        vocabulary_size: terms are 0 to vocabulary_size - 1.
        encoder: {"fingerprint", "model", "manifest"} of the encoder; None for vectors made
            elsewhere.
        shards: number of shards.
        document_scale: weight of one document impact step; None chooses it from the weights of the
            first addition.
        vocabulary: the string of each term, where vectors are keyed by strings.
        query_modifier: "none" or "idf", see :class:`.manifest.IndexManifest`.
        fields: type of each field of the metadata that filters may name.
        block_size: documents in a full block.
        segment_blocks: blocks in a full segment.
    """

    vocabulary_size: int
    encoder: dict[str, Any] | None = None
    shards: int = 1
    document_scale: float | None = None
    vocabulary: list[str] | None = None
    query_modifier: str = "none"
    fields: Fields = field(default_factory=dict)
    block_size: int = MAX_BLOCK_DOCUMENTS
    segment_blocks: int = SEGMENT_BLOCKS

    def check(self) -> None:
        """Check every bound.

        Raises:
            InputError: naming the option, its value and what is allowed.
        """
        for name, highest in (
            ("vocabulary_size", 2**31 - 1),
            ("shards", 9999),
            ("block_size", MAX_BLOCK_DOCUMENTS),
            ("segment_blocks", 1024),
        ):
            if not 1 <= (value := getattr(self, name)) <= highest:
                raise InputError(f"{name}: {value} is out of range; allowed 1 to {highest}")
        if self.query_modifier not in ("none", "idf"):
            raise InputError(f"query_modifier: {self.query_modifier!r}; allowed none and idf")
        check_fields(self.fields)
        scale = self.document_scale
        if scale is not None and first_bad_weight(np.array([scale])) is not None:
            raise InputError(f"document_scale: {scale} is out of range; must be finite and > 0")
        if self.vocabulary is not None and len(self.vocabulary) != self.vocabulary_size:
            raise InputError(
                f"vocabulary: has {len(self.vocabulary)} entries; vocabulary_size is "
                f"{self.vocabulary_size}"
            )


class IndexBuilder:
    """Builds one index directory. After a kill at any instant, ``resume`` gives the same segments.

    Arrival number i becomes ordinal i // shards of shard i % shards. Use as a context manager or
    ``close`` it.
    """

    def __init__(self, path: Path, manifest: IndexManifest, lock: int) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = lock
        self._stores: list[WritableStore] = []
        self._documents, self._max_impact = 0, 1
        self._closed = False

    @classmethod
    def create(cls, path: Path | str, options: BuildOptions) -> IndexBuilder:
        """Begin an index in a directory that is absent or empty.

        Raises:
            InputError: an option out of range, or a directory with something in it.
        """
        path = Path(path)
        options.check()
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: must be absent or an empty directory")
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        try:
            torn = path / f"{BUILDING_FILE}.part"  # what a killed create leaves behind
            if any(one != torn for one in path.iterdir()):
                hint = "; continue with --resume" if (path / BUILDING_FILE).exists() else ""
                raise InputError(f"{path}: must be absent or an empty directory{hint}")
            _manifest(options).write(path / BUILDING_FILE)
            return cls._locked(path, lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def resume(cls, path: Path | str) -> IndexBuilder:
        """Continue a build that was cut off; ``documents`` says how many arrivals are safe.

        Raises:
            InputError: nothing to resume here, the index is complete, or another process is
                building it.
            CorruptError: the building manifest is torn or altered.
        """
        path = Path(path)
        none = InputError(f"{path}: no build to resume here; start one without --resume")
        if not path.is_dir():
            raise none
        lock = _lock(path)
        try:
            if (path / INDEX_FILE).exists():
                raise InputError(f"{path}: this index is complete, there is nothing to resume")
            if not (path / BUILDING_FILE).exists():
                raise none
            return cls._locked(path, lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def _locked(cls, path: Path, lock: int) -> IndexBuilder:
        """Open the build of a directory that this process has locked."""
        builder = cls(path, IndexManifest.read(path / BUILDING_FILE), lock)
        try:
            builder._open_stores()
        except BaseException:
            for store in builder._stores:
                store.close()
            raise
        return builder

    def _open_stores(self) -> None:
        for shard in range(self.manifest.shard_count):
            directory = self.manifest.shard_directory(self.path, shard)
            directory.mkdir(exist_ok=True)
            self._stores.append(WritableStore.open(directory))
            sync_directory(directory)
        sync_directory(self.path)
        # Shards commit one after the other, shard 0 last: an addition cut off in between is undone.
        state = self._stores[0].state()
        self._documents, self._max_impact = state.arrivals, state.max_impact
        for shard, store in enumerate(self._stores):
            if store.count() > self._ordinals(shard):
                store.undo(1, self._ordinals(shard))
            elif store.count() < self._ordinals(shard):
                raise CorruptError(
                    f"{store.path}: {store.count()} documents, must be {self._ordinals(shard)}; "
                    "restore the file or build the index again"
                )

    def _ordinals(self, shard: int) -> int:
        return (
            self._documents - shard + self.manifest.shard_count - 1
        ) // self.manifest.shard_count

    @property
    def documents(self) -> int:
        """How many documents are safe on disk, in order of arrival."""
        return self._documents

    def add(self, documents: Sequence[Document], vectors: SparseBatch) -> None:
        """Add documents with their vectors in one durable step, all of them or none.

        Raises:
            InputError: an id that is empty or already there, a declared field with a value of
                another type, a term outside the vocabulary, a broken vector.
            UnavailableError: the disk is full; nothing of this addition stays, the builder is
                closed.
        """
        self._require_open()
        documents = list(documents)
        if len(documents) != len(vectors):
            raise InputError(f"{len(documents)} documents but {len(vectors)} vectors")
        if not documents:
            return
        metadata = self._check_documents(documents)
        self._check_vectors(documents, vectors)
        if self._documents + len(documents) > MAX_DOCUMENTS:
            raise InputError(f"an index holds at most {MAX_DOCUMENTS} documents")
        highest = highest_impact(self.manifest.vocabulary_size)
        if self.manifest.document_scale is None and len(vectors.weights):
            # Durable before any impact is: a build that resumes goes on with the same scale.
            self._write_manifest(document_scale=choose_scale(vectors, highest))
        impacts, clipped = vectors.quantize(self.manifest.document_scale or 1.0, highest)
        self._max_impact = max(self._max_impact, int(impacts.impacts.max(initial=1)))
        shards = self.manifest.shard_count
        by_shard: list[list[NewRow]] = [[] for _ in range(shards)]
        for i, document in enumerate(documents):
            ordinal, shard = divmod(self._documents + i, shards)
            terms, values = impacts.row(i)
            by_shard[shard].append(
                NewRow(
                    ordinal, document, metadata[i], terms, values.astype(np.uint16), int(clipped[i])
                )
            )
        try:
            with (
                ExitStack() as transactions
            ):  # left in reverse: shard 0 commits last, and with it the addition
                transactions.enter_context(self._stores[0].transaction())
                self._stores[0].set_state(1, self._documents + len(documents), self._max_impact)
                self._stores[0].insert(by_shard[0])
                self._store_sample(vectors)
                for store, rows in zip(self._stores[1:], by_shard[1:], strict=True):
                    if rows:
                        transactions.enter_context(store.transaction())
                        store.insert(rows)
        except BaseException:
            # Some shards may have committed: resume undoes that.
            self.close()
            raise
        self._documents += len(documents)

    def _write_manifest(self, **changes: Any) -> None:
        """Change the manifest of the build, durably."""
        changed = replace(self.manifest, checksum="", **changes)
        checksum = changed.write(self.path / BUILDING_FILE)
        self.manifest = replace(changed, checksum=checksum)

    def _store_sample(self, vectors: SparseBatch) -> None:
        """Keep the weights of every stride-th arrival; the stride doubles as arrivals come."""
        total, stride = self._documents + len(vectors), 1
        while -(-total // stride) > SAMPLE_DOCUMENTS:
            stride *= 2
        first = -(-self._documents // stride) * stride
        rows = ((one, *vectors.row(one - self._documents)) for one in range(first, total, stride))
        self._stores[0].add_sample(rows, stride)

    def _check_documents(self, documents: Sequence[Document]) -> list[str]:
        """Check documents and that their ids are new; return their metadata as JSON."""
        metadata = [checked_metadata(one, self.manifest.fields) for one in documents]
        seen: set[str] = set()
        for document in documents:
            if document.id in seen:
                raise InputError(f"document id {document.id!r} occurs twice; ids must be unique")
            seen.add(document.id)
        ids = list(seen)
        for store in self._stores:
            if found := list(store.find(ids)):
                raise InputError(
                    f"document id {found[0]!r} is in the index already; ids must be unique"
                )
        return metadata

    def _check_vectors(self, documents: Sequence[Document], vectors: SparseBatch) -> None:
        def owner(entry: int | np.integer) -> str:
            return repr(documents[int(np.searchsorted(vectors.indptr, entry, side="right")) - 1].id)

        size = self.manifest.vocabulary_size
        if (bad := np.flatnonzero((vectors.terms < 0) | (vectors.terms >= size))).size:
            term = vectors.terms[bad[0]]
            raise InputError(
                f"document {owner(bad[0])}: term {term}, the vocabulary has {size} (0 to "
                f"{size - 1})"
            )
        if (entry := first_bad_weight(vectors.weights)) is not None:
            raise InputError(
                f"document {owner(entry)}: weight of term {vectors.terms[entry]} is "
                f"{vectors.weights[entry]}, must be finite and > 0"
            )
        falls = np.flatnonzero(np.diff(vectors.terms) <= 0) + 1
        if (bad := falls[~np.isin(falls, vectors.indptr)]).size:
            raise InputError(f"document {owner(bad[0])}: terms must ascend strictly")

    def finish(self, progress: Callable[[int, int], None] | None = None) -> IndexManifest:
        """Derive the segments from the store, then publish the manifest, which completes the index.

        Args:
            progress: called with (documents in segments, documents in all) after each block.

        Raises:
            InputError: no document was added, and no document scale was given.
            UnavailableError: the disk is full; run ``resume`` and ``finish`` again.
        """
        self._require_open()
        if not self._documents and self.manifest.document_scale is None:
            raise InputError(
                f"{self.path}: no document was added, and an empty index needs a document_scale"
            )
        done = 0

        def count(documents: int) -> None:
            nonlocal done
            done += documents
            if progress is not None:
                progress(done, self._documents)

        try:
            scale = self.manifest.document_scale or 1.0
            sample = SparseBatch.join(self._stores[0].sample())
            self._write_manifest(
                document_scale=scale,
                max_impact=self._max_impact,
                fidelity=measure(sample, scale, highest_impact(self.manifest.vocabulary_size)),
            )
            for shard, store in enumerate(self._stores):
                self._write_shard(shard, store, count)
        except OSError as error:
            if error.errno not in OUT_OF_SPACE:
                raise
            raise UnavailableError(
                f"{self.path}: no space left to write the segments; free some, then continue with "
                "`csplade index build --resume`"
            ) from error
        finally:
            self.close()
        # The building manifest is the index manifest but for its name.
        os.replace(self.path / BUILDING_FILE, self.path / INDEX_FILE)
        sync_directory(self.path)
        return IndexManifest.open(self.path)

    def _write_shard(self, shard: int, store: WritableStore, count: Callable[[int], None]) -> None:
        """Derive and write all segments of a shard, then its manifest."""
        manifest, documents, segments = self.manifest, self._ordinals(shard), []
        directory = manifest.shard_directory(self.path, shard)
        per_segment = manifest.block_size * manifest.segment_blocks
        for number, first in enumerate(range(0, documents, per_segment)):
            last = min(first + per_segment, documents)
            segment = derive_segment(store, range(first, last), manifest, count)
            path = directory / f"segment-{number:06d}.safetensors"
            segments.append(write_segment(path, segment, first, last))
        ShardManifest(
            shard=shard,
            generation=1,
            documents=documents,
            postings=sum(one.postings for one in segments),
            bytes=sum(one.bytes for one in segments),
            clipped=store.clipped(),
            segments=tuple(segments),
            sealed=documents,
        ).write(directory, manifest.checksum)

    def close(self) -> None:
        """Release the stores and the lock; what was added stays."""
        if self._closed:
            return
        self._closed = True
        for store in self._stores:
            store.close()
        os.close(self._lock)

    def _require_open(self) -> None:
        if self._closed:
            raise InputError(
                f"{self.path}: this builder is closed; use IndexBuilder.resume to continue"
            )

    def __enter__(self) -> IndexBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _manifest(options: BuildOptions) -> IndexManifest:
    """Return the manifest of an index of which nothing is stored yet."""
    return IndexManifest(
        format_version=FORMAT_VERSION,
        encoder=options.encoder,
        vocabulary_size=options.vocabulary_size,
        vocabulary=options.vocabulary,
        document_scale=None if options.document_scale is None else float(options.document_scale),
        max_impact=1,
        block_size=options.block_size,
        segment_blocks=options.segment_blocks,
        shard_count=options.shards,
        query_modifier=options.query_modifier,
        fields=dict(options.fields),
    )


def _lock(path: Path) -> int:
    """Return a descriptor that locks the directory for this process until it is closed.

    Raises:
        InputError: another process is building in it.
    """
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise InputError(f"{path}: another process is building this index") from None
    return lock
