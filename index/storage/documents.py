"""The document store of a shard: one SQLite file, from which segments are derived."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...core.document import Document
from ...core.errors import CorruptError, StorageError
from ...core.vectors import offsets
from .files import require_plain_file
from .schema import (
    STORE_FILE,
    State,
    checksum,
    identity_checksum,
    require_readable,
    state_columns,
    version_of,
)

ROWS_CHUNK = 65_536  # rows read together
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


@dataclass(frozen=True)
class Rows:
    """Stored vectors: row i owns ``indptr[i]:indptr[i + 1]`` of terms and impacts."""

    indptr: NDArray[np.int64]
    terms: NDArray[np.int32]
    impacts: NDArray[np.uint16]

    def row(self, i: int) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
        """Terms and impacts of row ``i`` (views)."""
        span = slice(self.indptr[i], self.indptr[i + 1])
        return self.terms[span], self.impacts[span]


@dataclass(frozen=True)
class LiveRow:
    """What a write compares with and replaces: the live row of an id."""

    ordinal: int
    created: int
    title: str
    text: str
    metadata: str


@dataclass(frozen=True)
class Headers:
    """What a run of rows is, without its content.

    Attributes:
        ordinals: int64 [n], ascending.
        created, deleted: int64 [n], generations; ``deleted`` is 0 for live rows.
        ids: the documents' own.
    """

    ordinals: NDArray[np.int64]
    created: NDArray[np.int64]
    deleted: NDArray[np.int64]
    ids: list[str]

    def live(self, generation: int) -> NDArray[np.bool_]:
        """Return which rows a search at this generation sees."""
        return (self.created <= generation) & self.held(generation)

    def held(self, generation: int) -> NDArray[np.bool_]:
        """Return which rows were not deleted up to this generation."""
        held: NDArray[np.bool_] = (self.deleted == 0) | (self.deleted > generation)
        return held

    def take(self, rows: NDArray[Any]) -> Headers:
        """Return some of the rows."""
        places = np.arange(len(self.ids))[rows]
        ids = [self.ids[i] for i in places.tolist()]
        return Headers(self.ordinals[places], self.created[places], self.deleted[places], ids)


class DocumentStore:
    """One connection for reading, shared by threads under a lock.

    Only :class:`.writable.WritableStore` moves the write-ahead log into the file: SQLite before
    3.51.3 can lose pages where two connections do. Every row has a checksum of its content, which
    reading and :meth:`problems` compare.
    """

    retry = "continue with `csplade index build --resume`"
    """What a user does when there is space again."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()
        self._version = 0

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open an existing store.

        Raises:
            CorruptError: missing, not a SQLite file, or of another version.
        """
        path = directory / STORE_FILE
        if not path.exists() and not path.is_symlink():
            raise CorruptError(f"{path}: missing; restore the file or build the index again")
        require_plain_file(path)
        # A store in write-ahead mode needs a writable directory for its -shm file, unless declared
        # immutable, which it is not while it has a log.
        log = path.with_name(f"{path.name}-wal")
        writable = os.access(directory, os.W_OK) or log.exists()
        mode = "mode=ro" if writable else "immutable=1"
        uri = f"{path.absolute().as_uri()}?{mode}"
        store = cls(
            path, sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
        )
        try:
            with store._errors():
                store._version = version_of(store._connection)
            store._read("SELECT ordinal FROM documents LIMIT 1")
            require_readable(store._version, path)
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close the connection."""
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
                raise StorageError(
                    f"{self.path}: no space left to write ({error}); free some, then {self.retry}"
                ) from error
            if name.startswith(OUTSIDE):
                raise StorageError(
                    f"{self.path}: {error} ({name}); check the disk, permissions and other "
                    "processes"
                ) from error
            raise self._corrupt(str(error)) from error
        except (UnicodeDecodeError, OverflowError) as error:
            raise self._corrupt(f"a row cannot be read: {error}") from error

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """Turn what goes wrong with the values of a row into a line that says so."""
        try:
            yield
        except (TypeError, ValueError, IndexError, RecursionError) as error:
            raise self._corrupt(f"a row cannot be read: {error}") from error

    def _corrupt(self, what: str) -> CorruptError:
        return CorruptError(f"{self.path}: {what}; restore the file or build the index again")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let everything read inside come from one state of the store."""
        with self._errors():
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    def state(self) -> State:
        """Return what the store says about itself."""
        rows = self._read(state_columns(self._version))
        if len(rows) != 1 or not all(type(one) is int and one >= 0 for one in rows[0]):
            raise self._corrupt("its state is altered")
        return State(*rows[0])

    def headers(self, first: int, last: int) -> Headers:
        """Return the headers of the rows of ordinals ``first`` to ``last - 1``.

        Raises:
            CorruptError: a row whose checksum differs.
        """
        ordinals: list[int] = []
        ids: list[str] = []
        created: list[int] = []
        deleted: list[int] = []
        names = f"id, {self._created}, deleted, id_checksum"
        for ordinal, id, born, gone, stored in self._rows(names, first, last, ROWS_CHUNK):
            if identity_checksum(ordinal, id, born, gone) != stored:
                raise self._altered(ordinal)
            ordinals.append(ordinal)
            ids.append(self._text(ordinal, id))
            created.append(born)
            deleted.append(gone)
        with self._decoding():
            return Headers(
                np.array(ordinals, dtype=np.int64),
                np.array(created, dtype=np.int64),
                np.array(deleted, dtype=np.int64),
                ids,
            )

    @property
    def _created(self) -> str:
        return "1 AS created" if self._version == 2 else "created"

    def sample(self) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """Return the sampled documents' terms and float32 weights (shard 0 only)."""
        found = self._read("SELECT terms, weights FROM sample ORDER BY arrival")
        with self._decoding():
            return [(np.frombuffer(t, "<i4"), np.frombuffer(w, "<f4")) for t, w in found]

    def find(self, ids: Sequence[str], generation: int | None = None) -> dict[str, int]:
        """Return the ordinal of each id that a live document has.

        Args:
            ids: any.
            generation: as a search at this generation sees it; None for now.
        """
        wanted = json.dumps(list(ids))
        chosen = "id IN (SELECT value FROM json_each(?))"
        found = self._read(
            f"SELECT id, ordinal, {self._created} FROM documents WHERE deleted = 0 AND {chosen}",
            (wanted,),
        )
        if generation is None:
            return {id: ordinal for id, ordinal, _ in found}
        since = self._read(
            f"SELECT id, ordinal, {self._created} FROM documents "
            f"WHERE deleted > 0 AND deleted > ? AND {chosen}",
            (generation, wanted),
        )
        return {id: ordinal for id, ordinal, born in found + since if born <= generation}

    def live_rows(self, ids: Sequence[str]) -> dict[str, LiveRow]:
        """Return the live rows of those of the ids that have one."""
        found = self._read(
            f"SELECT id, ordinal, {self._created}, title, text, metadata FROM documents "
            "WHERE deleted = 0 AND id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        return {id: LiveRow(*row) for id, *row in found}

    def count(self) -> int:
        """Return how many ordinals were given out, those of deleted documents included."""
        return self.state().ordinals

    def clipped(self) -> int:
        """Return how many document impacts were reduced to the maximum."""
        with self._decoding():
            return int(self._read("SELECT coalesce(sum(clipped), 0) FROM documents")[0][0])

    def deleted(self) -> NDArray[np.int64]:
        """Return the ordinals of deleted documents whose rows are still here, ascending."""
        found = self._read("SELECT ordinal FROM documents WHERE deleted > 0 ORDER BY ordinal")
        return np.array([ordinal for (ordinal,) in found], dtype=np.int64)

    def documents(self, ordinals: Sequence[int]) -> list[Document]:
        """Return the documents, in the order given.

        Raises:
            CorruptError: a row that is missing or whose checksum differs.
        """
        names = f"id, {self._created}, deleted, id_checksum, title, text, metadata, checksum"
        found = []
        for ordinal, row in zip(ordinals, self._columns(names, ordinals), strict=True):
            id, created, deleted, id_checksum, title, text, metadata, stored = row
            if identity_checksum(ordinal, id, created, deleted) != id_checksum:
                raise self._altered(ordinal)
            self._compare(ordinal, stored, title, text, metadata)
            title, text = self._text(ordinal, title), self._text(ordinal, text)
            values = self._metadata(ordinal, metadata)
            found.append(Document(self._text(ordinal, id), text, title, values))
        return found

    def metadata(
        self, ordinals: Sequence[int] | NDArray[np.integer[Any]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield id and metadata of documents, in the order given.

        Raises:
            CorruptError: a row that is missing or whose checksum differs.
        """
        for start in range(0, len(ordinals), ROWS_CHUNK):
            chunk = [int(one) for one in ordinals[start : start + ROWS_CHUNK]]
            rows = self._columns("id, title, text, metadata, checksum", chunk)
            for ordinal, (id, *content, stored) in zip(chunk, rows, strict=True):
                self._compare(ordinal, stored, *content)
                yield self._text(ordinal, id), self._metadata(ordinal, content[-1])

    def _metadata(self, ordinal: int, text: object) -> dict[str, Any]:
        with self._decoding():
            values = json.loads(self._text(ordinal, text))
            if not isinstance(values, dict):
                raise TypeError(f"the metadata of ordinal {ordinal} is not an object")
            return values

    def _text(self, ordinal: int, value: object) -> str:
        if not isinstance(value, str):
            raise self._corrupt(f"the row of ordinal {ordinal} holds something else than text")
        return value

    def _compare(self, ordinal: int, stored: bytes, *content: object) -> None:
        if checksum(ordinal, *content) != stored:
            raise self._altered(ordinal)

    def _altered(self, ordinal: int) -> CorruptError:
        return self._corrupt(f"the row of ordinal {ordinal} is altered, its checksum differs")

    def _columns(
        self, names: str, ordinals: Sequence[int], table: str = "documents"
    ) -> list[tuple[Any, ...]]:
        if not len(ordinals):
            return []
        first, last = int(min(ordinals)), int(max(ordinals))
        if last - first + 1 == len(ordinals):
            chosen, values = "ordinal BETWEEN ? AND ?", (first, last)
        else:
            chosen = "ordinal IN (SELECT value FROM json_each(?))"
            values = (json.dumps([int(one) for one in ordinals]),)  # type: ignore[assignment]
        found = self._read(f"SELECT ordinal, {names} FROM {table} WHERE {chosen}", values)
        by_ordinal = {row[0]: row[1:] for row in found}
        try:
            return [by_ordinal[int(ordinal)] for ordinal in ordinals]
        except KeyError as missing:
            raise self._corrupt(
                f"the row of ordinal {missing.args[0]} is missing from {table}"
            ) from None

    def vectors(self, ordinals: Sequence[int] | NDArray[np.integer[Any]]) -> Rows:
        """Return the vectors of documents, in the order given.

        Raises:
            CorruptError: a row that is missing or whose checksum differs.
        """
        ordinals = [int(one) for one in ordinals]
        found = self._columns("terms, impacts, checksum", ordinals, "vectors")
        for ordinal, (terms, impacts, stored) in zip(ordinals, found, strict=True):
            self._compare(ordinal, stored, terms, impacts)
        with self._decoding():
            if any(len(row[0]) != 2 * len(row[1]) for row in found):
                raise ValueError("terms and impacts are not as many")
            return Rows(
                offsets([len(row[1]) // 2 for row in found]),
                np.frombuffer(b"".join(row[0] for row in found), dtype="<i4"),
                np.frombuffer(b"".join(row[1] for row in found), dtype="<u2"),
            )

    def problems(self) -> list[str]:
        """Return what SQLite's own check, the checksums and the store's rules find wrong."""
        try:
            found = [str(row[0]) for row in self._read("PRAGMA integrity_check(10)")]
            found = [] if found == ["ok"] else found
            documents, vectors, paired = self._read(
                "SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM vectors), "
                "(SELECT count(*) FROM documents JOIN vectors USING (ordinal))"
            )[0]
            if documents != self.state().rows:
                found.append(f"{documents} documents, its state says {self.state().rows}")
            if not vectors == documents == paired:
                found.append(f"{vectors} vectors but {documents} documents")
            found += self._altered_rows()
        except CorruptError as error:
            return [str(error)]
        return [f"{self.path}: {one}" for one in found]

    def _altered_rows(self, step: int = 1000) -> Iterator[str]:
        names = f"id, {self._created}, deleted, id_checksum, title, text, metadata, checksum"
        for ordinal, id, created, deleted, id_checksum, *content, stored in self._rows(
            names, 0, self.count(), step
        ):
            if (
                identity_checksum(ordinal, id, created, deleted) != id_checksum
                or checksum(ordinal, *content) != stored
            ):
                yield f"the row of ordinal {ordinal} is altered, its checksum differs"

    def _rows(self, names: str, first: int, last: int, step: int) -> Iterator[tuple[Any, ...]]:
        """Yield ordinal and columns of the rows of a range, however wide it is said to be."""
        while True:
            rows = self._read(
                f"SELECT ordinal, {names} FROM documents WHERE ordinal >= ? AND ordinal < ? "
                "ORDER BY ordinal LIMIT ?",
                (first, last, step),
            )
            yield from rows
            if len(rows) < step:
                return
            first = rows[-1][0] + 1

    def _read(self, query: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._connection.execute(query, parameters).fetchall()
