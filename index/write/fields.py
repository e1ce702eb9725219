"""Declare and drop fields of a finished index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...core.errors import InputError
from ...core.fields import FieldKind, check_fields, values_of
from ..storage.manifest import INDEX_FILE, IndexManifest
from ..storage.writable import WritableStore


def declare_field(path: Path | str, name: str, kind: FieldKind) -> None:
    """Declare a field of an index, so that filters may name it once the index is opened again.

    Raises:
        InputError: it is declared already, or a stored document has a value of another type.
        CorruptError: a broken manifest or store.
        UnavailableError: a writer has the index open.
    """
    path = Path(path)
    manifest = IndexManifest.open(path)
    if name in manifest.fields:
        raise InputError(
            f"field {name}: is declared as {manifest.fields[name]} already; drop it first"
        )
    fields = {**manifest.fields, name: kind}
    check_fields(fields)
    for shard in manifest.shards:
        store = WritableStore.open(manifest.shard_directory(path, shard.shard))
        try:
            headers = store.headers(0, store.count())
            for id, metadata in store.metadata(headers.ordinals):
                values_of(metadata, name, kind, id)
        finally:
            store.close()
    replace(manifest, fields=fields).write(path / INDEX_FILE)


def drop_field(path: Path | str, name: str) -> None:
    """Remove the declaration of a field; the documents keep their metadata.

    Raises:
        InputError: it is not declared.
        CorruptError: a broken manifest.
    """
    path = Path(path)
    manifest = IndexManifest.open(path)
    if name not in manifest.fields:
        raise InputError(
            f"field {name!r:.60}: is not declared; declared are "
            f"{', '.join(manifest.fields) or 'none'}"
        )
    fields = {held: kind for held, kind in manifest.fields.items() if held != name}
    replace(manifest, fields=fields).write(path / INDEX_FILE)
