"""The document store of a shard: one SQLite file, from which segments are derived."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.document import Document
from ...core.errors import CorruptError, InputError, UnavailableError
from ...core.vectors import offsets

STORE_FILE = "documents.sqlite"
# SQLite's names of errors of the disk or of another process, which leave the file as it was.
OUT_OF_SPACE = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE")
OUTSIDE = (
    "SQLITE_IOERR",
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_READONLY",
    "SQLITE_CANTOPEN",
    "SQLITE_PERM",
)

# Vectors have their own table, so that deriving segments does not read the texts. Shard 0 keeps in
# arrivals how many documents the whole index was given: what other shards hold beyond is torn.
SCHEMA = """
CREATE TABLE documents (
    ordinal INTEGER PRIMARY KEY, id TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL,
    metadata TEXT NOT NULL, clipped INTEGER NOT NULL, deleted INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX live_id ON documents (id) WHERE deleted = 0;
CREATE INDEX tombstones ON documents (ordinal) WHERE deleted = 1;
CREATE TABLE vectors (ordinal INTEGER PRIMARY KEY, terms BLOB NOT NULL, impacts BLOB NOT NULL);
CREATE TABLE arrivals (count INTEGER NOT NULL);
INSERT INTO arrivals VALUES (0);
"""


@dataclass(frozen=True)
class Rows:
    """Stored vectors: row i owns ``indptr[i]:indptr[i + 1]`` of terms and impacts."""

    indptr: NDArray[np.int64]
    terms: NDArray[np.int32]
    impacts: NDArray[np.uint8]


class DocumentStore:
    """One connection, shared by threads under a lock; a commit is on the disk when it returns."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()

    @classmethod
    def create(cls, directory: Path) -> DocumentStore:
        """Create an empty store; complete one that a crash left without its schema."""
        path = directory / STORE_FILE
        store = cls(path, sqlite3.connect(path, check_same_thread=False, isolation_level=None))
        with store._errors():
            store._connection.execute("PRAGMA journal_mode=WAL")
            store._connection.execute("PRAGMA synchronous=FULL")
            if not store._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                store._connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
        return store

    @classmethod
    def open(cls, directory: Path) -> DocumentStore:
        """Open an existing store for reading.

        Raises:
            CorruptError: missing, or not a SQLite file.
        """
        path = directory / STORE_FILE
        if not path.is_file():
            raise CorruptError(f"{path}: missing; restore the file or build the index again")
        # A store in write-ahead mode needs a writable directory for its -shm file, unless declared
        # immutable.
        mode = "mode=ro" if os.access(directory, os.W_OK) else "immutable=1"
        uri = f"{path.absolute().as_uri()}?{mode}"
        store = cls(
            path, sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
        )
        try:
            store._read("SELECT ordinal FROM documents LIMIT 1")
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close the connection; the last one to close moves the write-ahead log into the file."""
        self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(OUT_OF_SPACE):
                raise UnavailableError(
                    f"{self.path}: no space left to write ({error}); free some, then continue with "
                    "`csplade index build --resume`"
                ) from error
            if name.startswith(OUTSIDE):
                raise UnavailableError(
                    f"{self.path}: {error} ({name}); check the disk, permissions and other "
                    "processes"
                ) from error
            raise CorruptError(
                f"{self.path}: {error}; restore the file or build the index again"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all writes inside durable together when the block ends, or none of them."""
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def insert(self, rows: Iterable[tuple[int, Document, str, bytes, bytes, int]]) -> None:
        """Add (ordinal, document, its metadata as JSON, terms, impacts, clipped) rows inside a
        transaction.

        Raises:
            InputError: a live document has the id already.
        """
        for ordinal, document, metadata, terms, impacts, clipped in rows:
            try:
                self._connection.execute(
                    "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, 0)",
                    (ordinal, document.id, document.title, document.text, metadata, clipped),
                )
            except sqlite3.IntegrityError:
                raise InputError(
                    f"document id {document.id!r} occurs twice; ids must be unique"
                ) from None
            self._connection.execute(
                "INSERT INTO vectors VALUES (?, ?, ?)", (ordinal, terms, impacts)
            )

    def set_arrivals(self, count: int) -> None:
        """Set, inside a transaction, how many documents the index holds (shard 0 only)."""
        self._connection.execute("UPDATE arrivals SET count = ?", (count,))

    def arrivals(self) -> int:
        """Return how many documents the index was given (shard 0 only)."""
        return int(self._read("SELECT count FROM arrivals")[0][0])

    def truncate(self, ordinals: int) -> None:
        """Remove every document from this ordinal on: they were never acknowledged."""
        with self.transaction():
            self._connection.execute("DELETE FROM documents WHERE ordinal >= ?", (ordinals,))
            self._connection.execute("DELETE FROM vectors WHERE ordinal >= ?", (ordinals,))

    def live_ids(self, ids: Sequence[str]) -> list[str]:
        """Return those of the ids that a live document has."""
        found = self._read(
            "SELECT id FROM documents WHERE deleted = 0 AND id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        return [one for (one,) in found]

    def count(self) -> int:
        """Return how many ordinals were given out, deleted documents included."""
        return int(self._read("SELECT coalesce(max(ordinal) + 1, 0) FROM documents")[0][0])

    def clipped(self) -> int:
        """Return how many document impacts were cut to 255."""
        return int(self._read("SELECT coalesce(sum(clipped), 0) FROM documents")[0][0])

    def deleted(self) -> NDArray[np.int64]:
        """Return the ordinals of deleted documents, ascending."""
        found = self._read("SELECT ordinal FROM documents WHERE deleted = 1 ORDER BY ordinal")
        return np.array([ordinal for (ordinal,) in found], dtype=np.int64)

    def documents(self, ordinals: Sequence[int]) -> list[Document]:
        """Return the documents, in the order given.

        Raises:
            InputError: an ordinal that was never given out.
        """
        return [
            Document(identity, text, title, json.loads(metadata))
            for identity, text, title, metadata in self._columns(
                "id, text, title, metadata", ordinals
            )
        ]

    def ids(self, ordinals: Sequence[int]) -> list[str]:
        """Return the documents' own ids, in the order given, without reading their texts.

        Raises:
            InputError: an ordinal that was never given out.
        """
        return [identity for (identity,) in self._columns("id", ordinals)]

    def _columns(self, names: str, ordinals: Sequence[int]) -> list[tuple[Any, ...]]:
        found = self._read(
            f"SELECT ordinal, {names} FROM documents WHERE ordinal IN (SELECT value FROM "
            "json_each(?))",
            (json.dumps(list(ordinals)),),
        )
        by_ordinal = {row[0]: row[1:] for row in found}
        try:
            return [by_ordinal[ordinal] for ordinal in ordinals]
        except KeyError as missing:
            raise InputError(f"{self.path}: no document has ordinal {missing.args[0]}") from None

    def vectors(self, first: int, last: int) -> Rows:
        """Return the vectors of ordinals ``first`` to ``last - 1``; missing ones are empty."""
        found = self._read(
            "SELECT ordinal, terms, impacts FROM vectors WHERE ordinal >= ? AND ordinal < ? ORDER "
            "BY ordinal",
            (first, last),
        )
        lengths = np.zeros(last - first, dtype=np.int64)
        if found:
            lengths[[row[0] - first for row in found]] = [len(row[2]) for row in found]
        return Rows(
            offsets(lengths),
            np.frombuffer(b"".join(row[1] for row in found), dtype="<i4"),
            np.frombuffer(b"".join(row[2] for row in found), dtype=np.uint8),
        )

    def problems(self) -> list[str]:
        """Return what SQLite's own check and the store's rules find wrong."""
        result = [str(row[0]) for row in self._read("PRAGMA quick_check(10)")]
        found = [] if result == ["ok"] else result
        (documents, vectors) = self._read(
            "SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM vectors)"
        )[0]
        if documents != self.count():
            found.append(f"{documents} documents but ordinals run to {self.count() - 1}")
        if vectors > documents:
            found.append(f"{vectors} vectors but {documents} documents")
        return [f"{self.path}: {one}" for one in found]

    def _read(self, query: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._connection.execute(query, parameters).fetchall()
