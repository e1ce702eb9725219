"""Open the shards of an index directory at its last committed generation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ...core.errors import CorruptError, InputError
from ...core.fields import Fields
from ..storage.derive import derive_segment
from ..storage.documents import DocumentStore, Headers
from ..storage.ids import ResidentIds
from ..storage.manifest import IndexManifest, SegmentManifest, ShardManifest
from ..storage.schema import State
from ..storage.segment import Segment, read_segment
from .fields import FieldColumns
from .shard import ALL_LIVE, OpenSegment, Shard


def open_shards(path: Path, manifest: IndexManifest) -> tuple[list[Shard], int, int]:
    """Read the shards of a manifest and check their files.

    What the writer committed after the shards' files were written, the tail, comes from the stores.
    All of it is of one generation: the one that shard 0 has committed. Without shard 0 (a shard
    alone on another machine) it is that of the shards themselves.

    Returns:
        The shards, their generation and the largest impact of the index.

    Raises:
        CorruptError: a missing or broken segment or store, or a store that lacks documents.
    """
    stores: list[DocumentStore] = []
    try:
        stores.extend(
            DocumentStore.open(manifest.shard_directory(path, one.shard)) for one in manifest.shards
        )
        with ExitStack() as stack:
            commit = _commit_point(path, manifest, stores, stack)
            shards = [
                _open_shard(path, manifest, one, store, commit.generation)
                for one, store in zip(manifest.shards, stores, strict=True)
            ]
    except BaseException:
        for store in stores:
            store.close()
        raise
    return shards, commit.generation, max(manifest.max_impact, commit.max_impact)


def _commit_point(
    path: Path, manifest: IndexManifest, stores: Sequence[DocumentStore], stack: ExitStack
) -> State:
    """Begin to read every store, shard 0 first: the others then hold all that it has committed."""
    first = manifest.shard_directory(path, 0)
    if any(store.path.parent == first for store in stores):
        for store in sorted(stores, key=lambda store: store.path.parent != first):
            stack.enter_context(store.reading())
        return next(store for store in stores if store.path.parent == first).state()
    if first.exists():
        store = DocumentStore.open(first)
        try:
            state = store.state()
        finally:
            store.close()
        for one in stores:
            stack.enter_context(one.reading())
        return state
    for one in stores:
        stack.enter_context(one.reading())
    return max((one.state() for one in stores), key=lambda state: state.generation)


def _open_shard(
    path: Path, manifest: IndexManifest, shard: ShardManifest, store: DocumentStore, generation: int
) -> Shard:
    directory, state = manifest.shard_directory(path, shard.shard), store.state()
    if state.ordinals < shard.sealed:
        raise CorruptError(
            f"{store.path}: {state.ordinals} documents, the manifest says {shard.sealed}; restore "
            "the file or build the index again"
        )
    segments, rows, stop = [], 0, 0
    for one in shard.segments:
        rows += len(store.headers(stop, one.first_ordinal).ids)
        headers = store.headers(one.first_ordinal, one.stop_ordinal)
        rows, stop = rows + len(headers.ids), one.stop_ordinal
        held = headers.take(headers.held(one.generation))
        if len(held.ids) != one.documents:
            raise CorruptError(
                f"{store.path}: {len(held.ids)} rows from ordinal {one.first_ordinal} on, "
                f"{one.file} holds {one.documents} documents; restore the file or build the index "
                "again"
            )
        fields = read_fields(store, held, manifest.fields)
        segment = read_segment(directory, one, manifest)
        segments.append(_opened(segment, one, held, fields, generation))
    rows += len(store.headers(stop, shard.sealed).ids)
    tail = store.headers(shard.sealed, state.ordinals)
    if rows + len(tail.ids) != state.rows:
        raise CorruptError(
            f"{store.path}: {rows + len(tail.ids)} rows, its state says {state.rows}; restore the "
            "file or build the index again"
        )
    segments += _derive_tail(store, tail.take(tail.live(generation)), manifest, generation)
    return Shard(shard.shard, directory, store, shard, ()).holding(segments)


def _derive_tail(
    store: DocumentStore, rows: Headers, manifest: IndexManifest, generation: int
) -> list[OpenSegment]:
    """Return the live documents that no file holds, as segments of one block."""
    found, size = [], manifest.block_size
    for first in range(0, len(rows.ids), size):
        chunk = rows.take(np.arange(first, min(first + size, len(rows.ids))))
        segment = derive_segment(store, chunk.ordinals, manifest)
        fields = read_fields(store, chunk, manifest.fields)
        found.append(_opened(segment, None, chunk, fields, generation))
    return found


def read_fields(store: DocumentStore, held: Headers, fields: Fields) -> FieldColumns:
    """Derive the columns of documents from their store.

    Args:
        store: of the shard.
        held: the documents.
        fields: declared fields.

    Raises:
        CorruptError: a value of another type than its field's, or a row that is altered.
    """
    ids = ResidentIds(held.ids)
    if not fields:
        return FieldColumns(len(ids), {}, ids)
    try:
        return FieldColumns.of(store.metadata(held.ordinals), fields, ids)
    except InputError as error:
        raise CorruptError(f"{store.path}: {error}; drop the field and declare it again") from None


def _opened(
    segment: Segment,
    manifest: SegmentManifest | None,
    held: Headers,
    fields: FieldColumns,
    generation: int,
) -> OpenSegment:
    """Return a segment with the headers of its documents.

    Documents that were deleted up to the generation are not live.
    """
    first = held.created[0] if len(held.created) else 1
    versions = held.created.astype(np.uint32)
    if (held.created == first).all():  # as after a build: one number for all
        versions = np.broadcast_to(np.uint32(first), len(held.ids))
    live = held.held(generation)
    return OpenSegment(
        segment,
        manifest,
        held.ordinals.astype(np.uint32),
        versions,
        fields,
        ALL_LIVE if live.all() else live.astype(np.uint8),
        int((~live).sum()),
    )
