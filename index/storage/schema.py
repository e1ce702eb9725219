"""The tables of a document store, and the step from the version before.

A row is named by its ordinal and has two generations: of the write that created it and of the one
that deleted it, 0 while it is live. A build is generation 1. Vectors have their own table, so that
deriving segments does not read the texts. ``state`` has one row: the generation of the last write
to this store, the ordinals given out and the rows held here, and, in shard 0 alone, the documents
that the whole index was ever given and the largest impact. ``sample`` has float32 weights of some
documents of the build, for measuring what rounding costs.
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass

from ...core.errors import CorruptError

STORE_FILE = "documents.sqlite"
SCHEMA_VERSION = 3
READABLE_VERSIONS = (2, SCHEMA_VERSION)

_TOMBSTONES = "CREATE INDEX tombstones ON documents (deleted) WHERE deleted > 0;"
_STATE = """
CREATE TABLE state (
    generation INTEGER NOT NULL, arrivals INTEGER NOT NULL, max_impact INTEGER NOT NULL,
    ordinals INTEGER NOT NULL, rows INTEGER NOT NULL
);
"""
SCHEMA = f"""
CREATE TABLE documents (
    ordinal INTEGER PRIMARY KEY, id TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL,
    metadata TEXT NOT NULL, clipped INTEGER NOT NULL, deleted INTEGER NOT NULL,
    id_checksum BLOB NOT NULL, checksum BLOB NOT NULL, created INTEGER NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX live_id ON documents (id) WHERE deleted = 0;
{_TOMBSTONES}
CREATE TABLE vectors (
    ordinal INTEGER PRIMARY KEY, terms BLOB NOT NULL, impacts BLOB NOT NULL, checksum BLOB NOT NULL
);
CREATE TABLE sample (arrival INTEGER PRIMARY KEY, terms BLOB NOT NULL, weights BLOB NOT NULL);
{_STATE}
INSERT INTO state VALUES (1, 0, 1, 0, 0);
PRAGMA user_version = {SCHEMA_VERSION};
"""
# Version 2 had one state of deletion, 1, no later writes, and every row from 0 on.
MIGRATION = f"""
ALTER TABLE documents ADD COLUMN created INTEGER NOT NULL DEFAULT 1;
DROP INDEX tombstones;
{_TOMBSTONES}
{_STATE}
INSERT INTO state SELECT 1, count, max_impact,
    (SELECT coalesce(max(ordinal) + 1, 0) FROM documents),
    (SELECT coalesce(max(ordinal) + 1, 0) FROM documents) FROM arrivals;
DROP TABLE arrivals;
PRAGMA user_version = {SCHEMA_VERSION};
"""


@dataclass(frozen=True)
class State:
    """What a store says about itself.

    Attributes:
        generation: of the last write to this store; in shard 0 the commit point of the index.
        arrivals: documents that the index was ever given (shard 0 only).
        max_impact: the largest impact that the index was given so far.
        ordinals: given out in this store.
        rows: that it holds; rows of deleted documents are removed in time.
    """

    generation: int
    arrivals: int
    max_impact: int
    ordinals: int
    rows: int


def version_of(connection: sqlite3.Connection) -> int:
    """Return the schema version of a store."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def state_columns(version: int) -> str:
    """Return the query of the columns of :class:`State`."""
    if version == SCHEMA_VERSION:
        return "SELECT generation, arrivals, max_impact, ordinals, rows FROM state"
    last = "(SELECT coalesce(max(ordinal) + 1, 0) FROM documents)"
    return f"SELECT 1, count, max_impact, {last}, {last} FROM arrivals"


def prepare(connection: sqlite3.Connection, path: str) -> None:
    """Make the tables of an empty store, or migrate one of version 2 to this one, atomically.

    Raises:
        CorruptError: a store of another version.
    """
    if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    version = version_of(connection)
    require_readable(version, path)
    if version != SCHEMA_VERSION:
        connection.executescript(f"BEGIN IMMEDIATE; {MIGRATION} COMMIT;")


def require_readable(version: int, path: object) -> None:
    """Check that this program reads stores of a version.

    Raises:
        CorruptError: it does not.
    """
    if version not in READABLE_VERSIONS:
        raise CorruptError(
            f"{path}: store version {version}, this program reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; "
            "build the index again with `csplade index build`"
        )


def checksum(*values: object) -> bytes:
    """Return a checksum of values, each told apart from its neighbours and by its type."""
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        content = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        digest.update(f"{type(value).__name__}{len(content)}:".encode())
        digest.update(content)
    return digest.digest()


def identity_checksum(ordinal: int, id: str, created: int, deleted: int) -> bytes:
    """Return the checksum of what tells a row apart; rows of a build have that of version 2."""
    return checksum(ordinal, id, deleted, *(() if created == 1 else (created,)))
