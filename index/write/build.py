"""IndexBuilder: documents and vectors in, durable at every step; segments derived from the store at
last.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ...core.document import Document
from ...core.errors import CorruptError, InputError, UnavailableError
from ...core.files import sync_directory
from ...core.vectors import DOCUMENT_SCALE, MAX_DOCUMENT_IMPACT, QUERY_SCALE, SparseBatch
from ...kernels.score.reference import MAX_BLOCK_DOCUMENTS
from ..storage.documents import DocumentStore
from ..storage.manifest import (
    BUILDING_FILE,
    FORMAT_VERSION,
    INDEX_FILE,
    IndexManifest,
    SegmentManifest,
    ShardManifest,
)
from ..storage.segment import Segment, make_block, read_segment, write_segment

# 16 blocks of 2^14 documents with 119 postings each: some 100 MB, the most the builder holds in
# memory.
SEGMENT_BLOCKS = 16
MAX_DOCUMENTS = 2**32 - 1
OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class IndexBuilder:
    """Builds one index directory. Killed at any instant, ``resume`` goes on and ends with the same
    segments.

    Arrival number i becomes ordinal i // shards of shard i % shards. A context manager; else
    ``close`` it.
    """

    def __init__(self, path: Path, manifest: IndexManifest, lock: int) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = lock
        self._stores: list[DocumentStore] = []
        self._documents = 0
        self._closed = False

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        vocabulary_size: int,
        encoder: dict[str, Any] | None,
        shards: int = 1,
        document_scale: float = DOCUMENT_SCALE,
        query_scale: float = QUERY_SCALE,
        vocabulary: list[str] | None = None,
        block_size: int = MAX_BLOCK_DOCUMENTS,
        segment_blocks: int = SEGMENT_BLOCKS,
    ) -> IndexBuilder:
        """Begin an index in a directory that is absent or empty.

        Raises:
            InputError: a value out of range, or a directory with something in it.
        """
        path = Path(path)
        for name, value, highest in (
            ("vocabulary_size", vocabulary_size, 2**31 - 1),
            ("shards", shards, 9999),
            ("block_size", block_size, MAX_BLOCK_DOCUMENTS),
            ("segment_blocks", segment_blocks, 1024),
        ):
            if not 1 <= value <= highest:
                raise InputError(f"{name} is {value}, allowed 1 to {highest}")
        for name, scale in (("document_scale", document_scale), ("query_scale", query_scale)):
            if not 0 < scale < float("inf"):
                raise InputError(f"{name} is {scale}, must be finite and > 0")
        if vocabulary is not None and len(vocabulary) != vocabulary_size:
            raise InputError(
                f"vocabulary has {len(vocabulary)} entries, but vocabulary_size is "
                f"{vocabulary_size}"
            )
        torn = path / f"{BUILDING_FILE}.part"  # all that a create leaves behind when it is killed
        if path.exists() and (not path.is_dir() or any(one != torn for one in path.iterdir())):
            hint = "; go on with --resume" if (path / BUILDING_FILE).exists() else ""
            raise InputError(f"{path}: must be absent or an empty directory{hint}")
        path.mkdir(parents=True, exist_ok=True)
        manifest = IndexManifest(
            FORMAT_VERSION,
            encoder,
            vocabulary_size,
            vocabulary,
            document_scale,
            query_scale,
            block_size,
            segment_blocks,
            shards,
        )
        manifest.write(path / BUILDING_FILE)
        return cls.resume(path)

    @classmethod
    def resume(cls, path: Path | str) -> IndexBuilder:
        """Go on with a build that was cut off; ``documents`` says how many arrivals are already
        safe.

        Raises:
            InputError: nothing to resume here, the index is complete, or another process is
                building it.
            CorruptError: the building manifest is torn or altered.
        """
        path = Path(path)
        if (path / INDEX_FILE).exists():
            raise InputError(f"{path}: this index is complete, there is nothing to resume")
        if not (path / BUILDING_FILE).exists():
            raise InputError(f"{path}: no build to resume here; start one without --resume")
        lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise InputError(f"{path}: another process is building this index") from None
        builder = cls(path, IndexManifest.read(path / BUILDING_FILE), lock)
        try:
            builder._open_stores()
        except BaseException:
            builder.close()
            raise
        return builder

    def _open_stores(self) -> None:
        for shard in range(self.manifest.shard_count):
            directory = self.manifest.shard_directory(self.path, shard)
            directory.mkdir(exist_ok=True)
            self._stores.append(DocumentStore.create(directory))
            sync_directory(directory)
        sync_directory(self.path)
        # Shards commit one after the other, shard 0 last: an addition cut off in between is taken
        # back.
        self._documents = self._stores[0].arrivals()
        for shard, store in enumerate(self._stores):
            if store.count() > self._ordinals(shard):
                store.truncate(self._ordinals(shard))
            elif store.count() < self._ordinals(shard):
                raise CorruptError(
                    f"{store.path}: {store.count()} documents, must be {self._ordinals(shard)}; "
                    "bring back the file or build the index again"
                )

    def _ordinals(self, shard: int) -> int:
        return (
            self._documents - shard + self.manifest.shard_count - 1
        ) // self.manifest.shard_count

    @property
    def documents(self) -> int:
        """Documents that are safe on disk, in order of arrival."""
        return self._documents

    def add(self, documents: Sequence[Document], vectors: SparseBatch) -> None:
        """Add documents with their vectors in one durable step: all of them or none.

        Raises:
            InputError: an id that is empty or already there, a term outside the vocabulary, a
                broken vector.
            UnavailableError: the disk is full; nothing of this addition stays, the builder is
                closed.
        """
        self._require_open()
        documents = list(documents)
        if len(documents) != len(vectors):
            raise InputError(f"{len(documents)} documents but {len(vectors)} vectors")
        if not documents:
            return
        self._check_ids(documents)
        metadata = [_metadata_json(document) for document in documents]
        self._check_vectors(documents, vectors)
        if self._documents + len(documents) > MAX_DOCUMENTS:
            raise InputError(f"an index holds at most {MAX_DOCUMENTS} documents")
        impacts = vectors.quantize(self.manifest.document_scale, MAX_DOCUMENT_IMPACT)
        clipped = np.rint(vectors.weights.astype(np.float64) / self.manifest.document_scale)
        clips = np.concatenate([[0], np.cumsum(clipped > MAX_DOCUMENT_IMPACT)])
        clips = np.diff(clips[vectors.indptr])
        terms, values = impacts.terms.astype("<i4"), impacts.impacts.astype(np.uint8)
        shards = self.manifest.shard_count
        by_shard: list[list[tuple[int, Document, str, bytes, bytes, int]]] = [
            [] for _ in range(shards)
        ]
        for i, document in enumerate(documents):
            ordinal, shard = divmod(self._documents + i, shards)
            row = slice(vectors.indptr[i], vectors.indptr[i + 1])
            by_shard[shard].append(
                (
                    ordinal,
                    document,
                    metadata[i],
                    terms[row].tobytes(),
                    values[row].tobytes(),
                    int(clips[i]),
                )
            )
        try:
            with (
                ExitStack() as transactions
            ):  # left in reverse: shard 0 commits last, and with it the addition
                transactions.enter_context(self._stores[0].transaction())
                self._stores[0].set_arrivals(self._documents + len(documents))
                self._stores[0].insert(by_shard[0])
                for store, rows in zip(self._stores[1:], by_shard[1:], strict=True):
                    if rows:
                        transactions.enter_context(store.transaction())
                        store.insert(rows)
        except BaseException:
            # Some shards may have committed: resume takes that back.
            self.close()
            raise
        self._documents += len(documents)

    def _check_ids(self, documents: Sequence[Document]) -> None:
        seen: set[str] = set()
        for document in documents:
            if not isinstance(document.id, str) or not document.id:
                raise InputError(f"document id {document.id!r} must be a non-empty string")
            if document.id in seen:
                raise InputError(f"document id {document.id!r} is there twice; ids must be unique")
            try:
                f"{document.id}{document.title}{document.text}".encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"document id {document.id!r}: text is no valid Unicode: {error}"
                ) from None
            seen.add(document.id)
        ids = list(seen)
        for store in self._stores:
            if found := store.live_ids(ids):
                raise InputError(
                    f"document id {found[0]!r} is in the index already; ids must be unique"
                )

    def _check_vectors(self, documents: Sequence[Document], vectors: SparseBatch) -> None:
        def owner(entry: np.integer) -> str:
            return repr(documents[int(np.searchsorted(vectors.indptr, entry, side="right")) - 1].id)

        size = self.manifest.vocabulary_size
        if (bad := np.flatnonzero((vectors.terms < 0) | (vectors.terms >= size))).size:
            term = vectors.terms[bad[0]]
            raise InputError(
                f"document {owner(bad[0])}: term {term}, the vocabulary has {size} (0 to "
                f"{size - 1})"
            )
        if (bad := np.flatnonzero(~(np.isfinite(vectors.weights) & (vectors.weights > 0)))).size:
            weight = vectors.weights[bad[0]]
            raise InputError(
                f"document {owner(bad[0])}: weight of term {vectors.terms[bad[0]]} is {weight}, "
                "must be finite and > 0"
            )
        falls = np.flatnonzero(np.diff(vectors.terms) <= 0) + 1
        if (bad := falls[~np.isin(falls, vectors.indptr)]).size:
            raise InputError(f"document {owner(bad[0])}: terms must ascend strictly")

    def finish(self, progress: Callable[[int, int], None] | None = None) -> IndexManifest:
        """Derive the segments from the store, then publish the manifest: the index is complete only
        then.

        Args:
            progress: called with (documents in segments, documents in all) after each block.

        Raises:
            InputError: no document was added.
            UnavailableError: the disk is full; run ``resume`` and ``finish`` again.
        """
        self._require_open()
        if not self._documents:
            raise InputError(
                f"{self.path}: no document was added, an empty index cannot be finished"
            )
        done = 0

        def count(documents: int) -> None:
            nonlocal done
            done += documents
            if progress is not None:
                progress(done, self._documents)

        try:
            for shard, store in enumerate(self._stores):
                directory = self.manifest.shard_directory(self.path, shard)
                write_shard(directory, shard, store, self._ordinals(shard), self.manifest, count)
        except OSError as error:
            if error.errno not in OUT_OF_SPACE:
                raise
            raise UnavailableError(
                f"{self.path}: no space left to write the segments; free some, then go on with "
                "`csplade index build --resume`"
            ) from error
        finally:
            self.close()
        # The building manifest is the index manifest but for its name: this rename completes the
        # index.
        os.replace(self.path / BUILDING_FILE, self.path / INDEX_FILE)
        sync_directory(self.path)
        return IndexManifest.open(self.path)

    def close(self) -> None:
        """Let go of the stores and the lock; what was added stays."""
        if self._closed:
            return
        self._closed = True
        for store in self._stores:
            store.close()
        os.close(self._lock)

    def _require_open(self) -> None:
        if self._closed:
            raise InputError(
                f"{self.path}: this builder is closed; use IndexBuilder.resume to go on"
            )

    def __enter__(self) -> IndexBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _metadata_json(document: Document) -> str:
    try:
        text = json.dumps(document.metadata, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"document id {document.id!r}: metadata is no JSON: {error}") from None
    return text


def write_shard(
    directory: Path,
    shard: int,
    store: DocumentStore,
    documents: int,
    manifest: IndexManifest,
    count: Callable[[int], None],
) -> ShardManifest:
    """Derive and write all segments of a shard, then its manifest."""
    segments = []
    per_segment = manifest.block_size * manifest.segment_blocks
    for number, first in enumerate(range(0, documents, per_segment)):
        last = min(first + per_segment, documents)
        segment = derive_segment(store, first, last, manifest.block_size, count)
        segments.append(
            write_segment(directory / f"segment-{number:06d}.safetensors", segment, first)
        )
    summary = ShardManifest(
        shard=shard,
        generation=1,
        documents=documents,
        postings=sum(one.postings for one in segments),
        bytes=sum(one.bytes for one in segments),
        clipped=store.clipped(),
        segments=tuple(segments),
    )
    summary.write(directory, manifest.checksum)
    return summary


def derive_segment(
    store: DocumentStore, first: int, last: int, block_size: int, count: Callable[[int], None]
) -> Segment:
    """Build the segment of ordinals ``first`` to ``last - 1`` from the stored vectors, block by
    block.
    """
    blocks = []
    for start in range(first, last, block_size):
        stop = min(start + block_size, last)
        rows = store.vectors(start, stop)
        blocks.append(make_block(rows.indptr, rows.terms, rows.impacts))
        count(stop - start)
    return Segment.from_blocks(blocks)


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
    mended = []
    for shard in manifest.shards:
        directory = manifest.shard_directory(path, shard.shard)
        store = DocumentStore.open(directory)
        for one in shard.segments:
            try:
                read_segment(directory, one)
            except CorruptError:
                mended.append(_rewrite(directory, store, one, manifest.block_size))
        store.close()
    return mended


def _rewrite(
    directory: Path, store: DocumentStore, wanted: SegmentManifest, block_size: int
) -> Path:
    last = wanted.first_ordinal + wanted.documents
    segment = derive_segment(store, wanted.first_ordinal, last, block_size, lambda _: None)
    path = directory / wanted.file
    if write_segment(path, segment, wanted.first_ordinal) != wanted:
        raise CorruptError(
            f"{path}: the document store no longer gives this segment; build the index again"
        )
    return path
