"""The one read-write connection of a document store; a commit is on the disk when it returns."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...core.document import Document
from ...core.errors import InputError, UnavailableError
from .documents import DocumentStore
from .files import require_plain_file
from .schema import SCHEMA_VERSION, STORE_FILE, checksum, identity_checksum, prepare

# Rows that are removed, and pages that are given back to the disk, in one transaction.
PURGE_ROWS = 256
VACUUM_PAGES = 1024


@dataclass(frozen=True)
class NewRow:
    """A row to be stored.

    Attributes:
        ordinal: its number in the shard.
        document: id, title and text.
        metadata: as JSON.
        terms: int32, ascending.
        impacts: uint16.
        clipped: how many impacts were reduced to the maximum.
        created: generation of the write.
    """

    ordinal: int
    document: Document
    metadata: str
    terms: NDArray[np.int32]
    impacts: NDArray[np.uint16]
    clipped: int
    created: int = 1


class WritableStore(DocumentStore):
    """A store opened for writing.

    A store has one such connection at most, in any process: it locks the shard's directory.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, write_lock: int) -> None:
        super().__init__(path, connection)
        self._write_lock: int | None = write_lock

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open a store; make an empty one, or complete one that a crash left bare.

        A store of version 2 is migrated, in one transaction.

        Raises:
            CorruptError: a store of another version.
            UnavailableError: it is open for writing elsewhere.
        """
        path = directory / STORE_FILE
        if path.exists() or path.is_symlink():
            require_plain_file(path)
        write_lock = _lock(directory)
        store = cls(
            path,
            sqlite3.connect(path, check_same_thread=False, isolation_level=None),
            write_lock,
        )
        try:
            with store._errors():
                store._connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # of a new file
                store._connection.execute("PRAGMA journal_mode=WAL")
                store._connection.execute("PRAGMA synchronous=FULL")
                prepare(store._connection, str(path))
                store._version = SCHEMA_VERSION
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close the connection; the last one to close moves the write-ahead log into the file."""
        super().close()
        if self._write_lock is not None:
            os.close(self._write_lock)
            self._write_lock = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all writes inside durable together when the block ends, or none of them."""
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._commit()
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _commit(self) -> None:
        self._connection.execute("COMMIT")

    def set_state(self, generation: int, arrivals: int, max_impact: int) -> None:
        """Set, inside a transaction, what :meth:`state` returns of the whole index."""
        self._connection.execute(
            "UPDATE state SET generation = ?, arrivals = ?, max_impact = ?",
            (generation, arrivals, max_impact),
        )

    def insert(self, rows: Sequence[NewRow]) -> None:
        """Add documents, inside a transaction, in ascending ordinals from :meth:`count` on.

        Raises:
            InputError: a live document has the id already.
        """
        for row in rows:
            document, ordinal = row.document, row.ordinal
            terms = row.terms.astype("<i4").tobytes()
            impacts = row.impacts.astype("<u2").tobytes()
            content = (document.title, document.text, row.metadata)
            try:
                self._connection.execute(
                    "INSERT INTO documents (ordinal, id, title, text, metadata, clipped, deleted, "
                    "id_checksum, checksum, created) VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
                    (
                        ordinal,
                        document.id,
                        *content,
                        row.clipped,
                        identity_checksum(ordinal, document.id, row.created, 0),
                        checksum(ordinal, *content),
                        row.created,
                    ),
                )
            except sqlite3.IntegrityError:
                raise InputError(
                    f"document id {document.id!r} occurs twice; ids must be unique"
                ) from None
            self._connection.execute(
                "INSERT INTO vectors VALUES (?, ?, ?, ?)",
                (ordinal, terms, impacts, checksum(ordinal, terms, impacts)),
            )
        if rows:
            self._connection.execute(
                "UPDATE state SET ordinals = ?, rows = rows + ?", (rows[-1].ordinal + 1, len(rows))
            )

    def delete(self, ordinals: Sequence[int], generation: int) -> None:
        """Mark live documents as deleted by a generation, inside a transaction."""
        self._mark(self._columns("id, created", ordinals), ordinals, generation)

    def _mark(
        self, rows: Sequence[tuple[Any, ...]], ordinals: Sequence[int], generation: int
    ) -> None:
        self._connection.executemany(
            "UPDATE documents SET deleted = ?, id_checksum = ? WHERE ordinal = ?",
            [
                (generation, identity_checksum(ordinal, id, created, generation), ordinal)
                for ordinal, (id, created) in zip(ordinals, rows, strict=True)
            ],
        )

    def undo(self, generation: int, ordinals: int) -> None:
        """Remove what was written after a generation: rows from an ordinal on, and deletions."""
        with self.transaction():
            removed = self._connection.execute(
                "DELETE FROM documents WHERE ordinal >= ?", (ordinals,)
            ).rowcount
            self._connection.execute("DELETE FROM vectors WHERE ordinal >= ?", (ordinals,))
            back = [
                one
                for (one,) in self._read(
                    "SELECT ordinal FROM documents WHERE deleted > 0 AND deleted > ?", (generation,)
                )
            ]
            self._mark(self._columns("id, created", back), back, 0)
            self._connection.execute(
                "UPDATE state SET generation = ?, ordinals = min(ordinals, ?), rows = rows - ?",
                (generation, ordinals, removed),
            )

    def purge(self, ordinals: Sequence[int]) -> None:
        """Remove rows of deleted documents for good and give their pages back to the disk."""
        for first in range(0, len(ordinals), PURGE_ROWS):
            group = [(int(one),) for one in ordinals[first : first + PURGE_ROWS]]
            with self.transaction():
                removed = self._connection.executemany(
                    "DELETE FROM documents WHERE ordinal = ? AND deleted > 0", group
                ).rowcount
                self._connection.executemany(
                    "DELETE FROM vectors WHERE ordinal = ? AND ordinal NOT IN "
                    "(SELECT ordinal FROM documents)",
                    group,
                )
                self._connection.execute("UPDATE state SET rows = rows - ?", (removed,))
        with self._errors():
            while self._connection.execute("PRAGMA freelist_count").fetchone()[0]:
                before = self._connection.execute("PRAGMA page_count").fetchone()[0]
                self._connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
                if self._connection.execute("PRAGMA page_count").fetchone()[0] == before:
                    return  # a file of version 2: its free pages are used again, not given back

    def empty_log(self) -> None:
        """Move the write-ahead log into the file and cut it to nothing, if no reader needs it."""
        self._read("PRAGMA wal_checkpoint(TRUNCATE)")

    def add_sample(
        self, rows: Iterable[tuple[int, NDArray[np.int32], NDArray[np.float32]]], stride: int
    ) -> None:
        """Add (arrival, terms, weights) in a transaction; keep multiples of ``stride`` only."""
        self._connection.executemany(
            "INSERT INTO sample VALUES (?, ?, ?)",
            [
                (arrival, terms.astype("<i4").tobytes(), weights.astype("<f4").tobytes())
                for arrival, terms, weights in rows
            ],
        )
        self._connection.execute("DELETE FROM sample WHERE arrival % ? != 0", (stride,))


def _lock(directory: Path) -> int:
    """Return a descriptor that keeps other writers out of the directory until it is closed.

    Raises:
        UnavailableError: another writer is there.
    """
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise UnavailableError(
            f"{directory}: its documents are open for writing elsewhere; try again later"
        ) from None
    return lock
