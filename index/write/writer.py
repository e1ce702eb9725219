"""IndexWriter: durable writes that every later search sees, one committing thread, group commit."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.document import Document
from ...core.errors import (
    CspladeError,
    OverloadedError,
    StorageError,
    UnavailableError,
    VectorNeededError,
    VersionConflictError,
)
from ...core.results import WriteResult, WriteStatus
from ..read.filter import CACHE_BYTES
from ..read.reader import Index
from ..storage.documents import LiveRow
from ..storage.manifest import IndexManifest
from ..storage.writable import NewRow
from .background import Background
from .draft import after_commit
from .log import Changes, CommitLog
from .operations import (
    Call,
    Operation,
    Upsert,
    check_deletes,
    check_upserts,
)

log = logging.getLogger(__name__)

# What one commit takes at most. It takes what is there, and never waits for more.
COMMIT_DOCUMENTS = 1024
COMMIT_BYTES = 8 * 2**20
MAX_ARRIVALS = 2**32 - 1

Row = tuple[NDArray[np.int32], NDArray[np.uint16]]


@dataclass(frozen=True)
class WriterStats:
    """What a writer has done and holds.

    Attributes:
        generation: of the last commit.
        documents: live ones.
        deleted: documents that are deleted and still take memory.
        tail_documents: documents that are in no file yet.
        commits: since the writer was opened.
        last_commit_seconds: from taking the operations of the last one to its being visible.
        compactions: segments that were written: sealed, or rewritten without deleted documents.
        garbage_rows: rows of deleted documents that wait for their removal from the stores.
    """

    generation: int
    documents: int
    deleted: int
    tail_documents: int
    commits: int
    last_commit_seconds: float
    compactions: int
    garbage_rows: int


class IndexWriter:
    """Writes to one index. Use as a context manager or ``close`` it; safe to use from many threads.

    There is one at most for an index, in any process. A write is on the disk, and seen by every
    later search of :attr:`index`, when its call returns. What the searched state is, and when what
    is deleted gives its memory and disk back, :mod:`.background` says.

    Attributes:
        index: always at the newest generation.
    """

    def __init__(self, index: Index, commits: CommitLog) -> None:
        self.index = index
        self._log = commits
        self._queue: deque[Operation] = deque()
        self._queued = threading.Condition()
        self._closing = False
        self._sound = True
        self._commits, self._seconds = 0, 0.0
        self._background = Background(index, commits)
        self._thread = threading.Thread(target=self._run, name="csplade-commit", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        threads: int | None = None,
        device: str | None = "cpu",
        filter_bytes: int = CACHE_BYTES,
    ) -> IndexWriter:
        """Open a finished index for writing and searching.

        Stores of an older version are migrated, and what a crash left half done is undone.

        Args:
            path: the index directory.
            threads, device, filter_bytes: as of :meth:`.read.reader.Index.open`.

        Raises:
            CorruptError, InputError, UnavailableError: as of :meth:`.read.reader.Index.open`; also
                UnavailableError if another writer has it open.
        """
        path = Path(path)
        commits = CommitLog.open(path, IndexManifest.open(path))
        index = None
        try:
            index = Index.read(path, threads=threads, device=device, filter_bytes=filter_bytes)
            return cls(index, commits)
        except BaseException:
            if index is not None:
                index.close()
            commits.close()
            raise

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish what is queued, end the threads, close index and stores."""
        with self._queued:
            if self._closing:
                return
            self._closing = True
            self._queued.notify_all()
        self._thread.join()
        self._background.close()
        self.index.close()
        self._log.close()

    @property
    def stats(self) -> WriterStats:
        """What was done and is held now."""
        now, background = self.index.snapshot, self._background
        return WriterStats(
            generation=now.generation,
            documents=now.count(),
            deleted=sum(shard.deleted for shard in now.shards.values()),
            tail_documents=sum(len(one) for shard in now.shards.values() for one in shard.tail),
            commits=self._commits,
            last_commit_seconds=self._seconds,
            compactions=background.compactions,
            garbage_rows=background.garbage_rows,
        )

    def needs_vector(self, documents: Sequence[Document]) -> list[bool]:
        """Return which documents are new or have another title or text than the stored ones."""
        stored = {
            id: row
            for shard in self.index.shards.values()
            for id, row in shard.store.live_rows([one.id for one in documents]).items()
        }
        return [
            (row := stored.get(one.id)) is None or (row.title, row.text) != (one.title, one.text)
            for one in documents
        ]

    def upsert(self, items: Sequence[Upsert]) -> list[WriteResult]:
        """Store documents, each in place of the one that has its id.

        What is the same already is not written. Items of one call with one id are applied in order.

        Args:
            items: any number; they may reach the index in several commits.

        Returns:
            What became of each item, in order. An item fails with InputError (a broken document or
            vector), VectorNeededError, VersionConflictError, OverloadedError (the tail or the disk
            is full; deletions still work) or UnavailableError (the disk fails).

        Raises:
            UnavailableError: the writer is closed.
        """
        return self._submit(check_upserts(items, self.index.manifest))

    def delete(self, ids: Sequence[str], if_version: int | None = None) -> list[WriteResult]:
        """Delete documents.

        Args:
            ids: of the documents; those that are not there have the status "not_found".
            if_version: the version that each of them must have.

        Returns:
            What became of each, in order; see :meth:`upsert`.

        Raises:
            UnavailableError: the writer is closed.
        """
        return self._submit(check_deletes(ids, if_version))

    def compact(self) -> None:
        """Write the tail to files, rewrite what has deleted documents, give memory and disk back.

        Rows and files that a search or another process still reads go later.

        Raises:
            UnavailableError: the disk is full or fails; what was there is untouched.
        """
        self._background.compact()

    def _submit(self, call: Call) -> list[WriteResult]:
        with self._queued:
            if self._closing:
                raise UnavailableError("index: the writer is closed; open it again")
            self._queue.extend(call.operations)
            self._queued.notify_all()
        return call.wait()

    def _run(self) -> None:
        while True:
            with self._queued:
                while not self._queue:
                    if self._closing:
                        return
                    self._queued.wait()
                group = self._take()
            started = time.perf_counter()
            self._write(group)
            self._seconds = time.perf_counter() - started
            self._background.wake()

    def _take(self) -> list[Operation]:
        """Return the operations of the next commit: the oldest ones, each id once."""
        group: list[Operation] = []
        ids: set[str] = set()
        size = 0
        while self._queue and len(group) < COMMIT_DOCUMENTS:
            one = self._queue[0]
            if one.id in ids or (group and size + one.size > COMMIT_BYTES):
                break
            ids.add(one.id)
            size += one.size
            group.append(self._queue.popleft())
        return group

    def _write(self, group: Sequence[Operation]) -> None:
        """Commit operations and tell their callers; if that fails, the deletions alone."""
        for some in (group, [one for one in group if one.document is None]):
            try:
                self._commit(some)
                return
            except Exception as error:
                reason = self._reason(error)
                for one in some:
                    if one.document is not None or some is not group:
                        one.finish("failed", 0, reason)

    def _reason(self, error: Exception) -> CspladeError:
        if isinstance(error, CspladeError):
            return error
        log.exception("a commit failed")
        return StorageError(
            f"{self.index.path}: a commit failed: {error!r:.200}; send the write again"
        )

    def _commit(self, group: Sequence[Operation]) -> None:
        """Commit operations, publish the snapshot after it, tell the callers.

        Raises:
            Exception: nothing is written, and nobody was told anything.
        """
        if not self._sound:
            self._log.recover()
            self._sound = True
        plan = _Plan(self._log, self._background.overload())
        plan.decide(group)
        if plan.changed:
            with self.index.publishing:
                draft = after_commit(self.index.snapshot, plan.changes, self.index.threads)
                with self._background.publication(draft):
                    self._make_durable(plan.changes)
            self._commits += 1
        for one, status, version, error in plan.results:
            one.finish(status, version, error)

    def _make_durable(self, changes: Changes) -> None:
        try:
            self._log.commit(changes)
        except BaseException:
            self._sound = False
            self._log.recover()
            self._sound = True
            # A commit that failed late may have happened: what shard 0 says counts.
            if self._log.generation != changes.generation:
                raise


class _Plan:
    """What a group of operations, each with its own id, comes to.

    Args:
        commits: the stores.
        overload: why no document can be added now; None if it can.
    """

    def __init__(self, commits: CommitLog, overload: OverloadedError | None) -> None:
        self._log, self._overload = commits, overload
        self.changes = Changes(commits.generation + 1, commits.arrivals, commits.max_impact)
        self.results: list[tuple[Operation, WriteStatus, int, CspladeError | None]] = []

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.changes.added or self.changes.removed)

    def decide(self, group: Sequence[Operation]) -> None:
        """Set results and changes."""
        rows = self._log.live_rows([one.id for one in group])
        for one in group:
            found = rows.get(one.id)
            version = 0 if found is None else found[1].created
            try:
                if one.if_version is not None and one.if_version != version:
                    raise VersionConflictError(
                        f"if_version: {one.if_version} is not the version of document {one.id!r}; "
                        f"it is {version}; read the document again"
                    )
                self._apply(one, found)
            except (VersionConflictError, VectorNeededError, OverloadedError) as error:
                self.results.append((one, "failed", version, error))

    def _apply(self, one: Operation, found: tuple[int, LiveRow] | None) -> None:
        generation = self.changes.generation
        if one.document is None:
            if found is not None:
                self._remove(*found)
            status: WriteStatus = "not_found" if found is None else "deleted"
            self.results.append((one, status, generation if found else 0, None))
            return
        vector = one.vector
        if found is not None:
            shard, row = found
            same_text = (row.title, row.text) == (one.document.title, one.document.text)
            same = same_text and _canonical(row.metadata) == _canonical(one.metadata)
            if same or (vector is None and same_text):
                stored = self._log.stores[shard].vectors([row.ordinal]).row(0)
                if vector is None:
                    vector = stored
                if same and _equal(vector, stored):
                    self.results.append((one, "unchanged", row.created, None))
                    return
        if vector is None:
            raise VectorNeededError(
                f"document id {one.id!r}: vector: missing, and the document is new or its title or "
                "text is another; give a vector"
            )
        if self._overload is not None:
            raise self._overload
        if self.changes.arrivals >= MAX_ARRIVALS:
            raise OverloadedError(f"the index was given {MAX_ARRIVALS} documents, the most", 3600.0)
        if found is not None:
            self._remove(*found)
        self._add(one, *vector)
        self.results.append((one, "created" if found is None else "updated", generation, None))

    def _remove(self, shard: int, row: LiveRow) -> None:
        self.changes.removed.setdefault(shard, []).append(row.ordinal)

    def _add(self, one: Operation, terms: NDArray[np.int32], impacts: NDArray[np.uint16]) -> None:
        changes = self.changes
        assert one.document is not None
        ordinal, shard = divmod(changes.arrivals, len(self._log.stores))
        row = NewRow(
            ordinal, one.document, one.metadata, terms, impacts, one.clipped, changes.generation
        )
        changes.added.setdefault(shard, []).append(row)
        changes.arrivals += 1
        changes.max_impact = max(changes.max_impact, int(impacts.max(initial=1)))


def _equal(one: Row, other: Row) -> bool:
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def _canonical(metadata: str) -> str:
    return json.dumps(json.loads(metadata), sort_keys=True, ensure_ascii=False)
