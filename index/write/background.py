"""Publish snapshots; merge, seal, compact and remove in the background, one thing after another.

No write waits for it. It works beside the commits, and holds them up only while it puts what it has
made in the place of what it was made of. What a snapshot or a reader in another process still needs
is removed later.
"""

from __future__ import annotations

import logging
import shutil
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import CspladeError, OverloadedError, StorageError, UnavailableError
from ..read.reader import Index
from ..read.shard import OpenSegment, Shard
from ..read.snapshot import Snapshot
from ..storage.files import exclusively
from . import compaction
from .draft import derived, replaced
from .log import CommitLog
from .tail import large_merge, merged

log = logging.getLogger(__name__)

# Upserts are rejected while a shard's tail has more documents than so many full segments, or the
# disk has fewer bytes free; deletions are not.
TAIL_SEGMENTS = 4
RESERVE_BYTES = 64 * 2**20


@dataclass(eq=False)
class _Garbage:
    """What no snapshot from a number on needs.

    Attributes:
        number: of the first snapshot without it.
        rows: ordinals by shard.
        files: segments.
    """

    number: int
    rows: Mapping[int, NDArray[Any]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


class _Request:
    """A call of :meth:`Background.compact`."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.error: Exception | None = None
        self.done = threading.Event()


class Background:
    """The thread behind a writer.

    Args:
        index: whose snapshots are published.
        commits: its stores.

    Attributes:
        compactions: segment files that were written.
    """

    def __init__(self, index: Index, commits: CommitLog) -> None:
        self.compactions = 0
        self._index, self._log = index, commits
        self._number = 0
        self._unsure: set[int] = set()  # shards of whose manifests the disk may have either
        self._held: weakref.WeakKeyDictionary[Snapshot, int] = weakref.WeakKeyDictionary()
        self._held[index.snapshot] = 0
        self._garbage = [self._left_behind(number) for number in index.shards]
        self._files = {number: _last_file(shard) for number, shard in index.shards.items()}
        self._condition = threading.Condition()
        self._requests: deque[_Request] = deque()
        self._woken = self._closing = False
        self._thread = threading.Thread(target=self._run, name="csplade-compact", daemon=True)
        self._thread.start()
        self.wake()

    @property
    def garbage_rows(self) -> int:
        """Rows of deleted documents that wait for their removal."""
        return sum(len(rows) for one in self._garbage for rows in one.rows.values())

    def overload(self) -> OverloadedError | None:
        """Return why no document can be added now; None if it can."""
        now = self._index.snapshot
        most = TAIL_SEGMENTS * now.manifest.block_size * now.manifest.segment_blocks
        for number, shard in now.shards.items():
            if (documents := sum(len(one) for one in shard.tail)) > most:
                return OverloadedError(
                    f"tail: {documents} documents of shard {number} wait to be written to a "
                    f"segment; allowed {most}; send the write again later",
                    1.0,
                )
        if (free := shutil.disk_usage(self._index.path).free) < RESERVE_BYTES:
            return OverloadedError(
                f"disk: {free:,} bytes free on the disk of the index; {RESERVE_BYTES:,} are kept "
                "for deletions; delete documents, or free some",
                10.0,
            )
        return None

    @contextmanager
    def publication(self, draft: Snapshot) -> Iterator[None]:
        """Put a snapshot in the place of the current one if the block ends without an error.

        The index's ``publishing`` is held. Everything that could fail is done before the block.
        """
        before = self._index.snapshot
        rows = {
            number: gone
            for number, shard in draft.shards.items()
            if len(gone := _dropped(before.shards[number], shard))
        }
        yield
        self._number += 1
        self._held[draft] = self._number
        if rows:
            self._garbage.append(_Garbage(self._number, rows))
        self._index.publish(draft)

    def wake(self) -> None:
        """Look for something to do."""
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def compact(self) -> None:
        """Seal and compact everything that is there now; returns when it is done.

        Raises:
            UnavailableError: the disk is full or fails, or the writer is closed.
        """
        request = _Request(self._index.generation)
        with self._condition:
            if self._closing:
                raise self._closed()
            self._requests.append(request)
            self._condition.notify_all()
        request.done.wait()
        if request.error is not None:
            raise request.error

    def close(self) -> None:
        """End the thread; what it was doing is left out or done, nothing is half done."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join()
        for request in self._requests:
            request.error = self._closed()
            request.done.set()
        try:
            self._remove()
        except Exception as error:
            log.warning("deleted documents keep their space for now: %s", error)

    def _closed(self) -> UnavailableError:
        return UnavailableError("index: the writer is closed; open it again")

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._woken or self._requests or self._closing):
                    self._condition.wait()
                if self._closing:
                    return
                self._woken = False
                request = self._requests.popleft() if self._requests else None
            error = self._work(request)
            if request is not None:
                request.error = error
                request.done.set()
            elif error is not None:
                log.warning("segments are not written, and tried again later: %s", error)

    def _work(self, request: _Request | None) -> Exception | None:
        """Do all there is to do; return what went wrong."""
        since = None if request is None else request.generation
        try:
            while not self._closing and self._step(since):
                pass
            self._remove()
            if request is not None:
                for store in self._log.stores:
                    store.empty_log()
        except OSError as error:
            return StorageError(
                f"{self._index.path}: a segment cannot be written: {error}; free some space, or "
                "check the disk"
            )
        except CspladeError as error:
            return error
        except Exception as error:
            log.exception("compaction failed")
            return error
        return None

    def _step(self, since: int | None) -> bool:
        """Do one merge or one rewrite; return whether there was one."""
        now = self._index.snapshot
        index = now.manifest
        for number, shard in now.shards.items():
            if (few := large_merge(shard.tail, index.block_size)) is not None:
                self._merge(number, shard.tail[few], index.block_size)
                return True
            rewrite = compaction.plan(shard, index, now.generation, since)
            if rewrite is not None:
                del now  # it would keep what is replaced
                self._rewrite(number, rewrite)
                return True
        return False

    def _merge(self, number: int, old: tuple[OpenSegment, ...], block_size: int) -> None:
        new = merged(old, block_size)
        self._prepare(new)

        def change(shard: Shard) -> Shard | None:
            segments = replaced(shard, old, new)
            return None if segments is None else shard.holding(segments)

        self._swap(number, change)

    def _rewrite(self, number: int, rewrite: compaction.Rewrite) -> None:
        self._files[number] += 1
        new = compaction.write(rewrite, self._index.manifest, self._files[number])
        self._prepare(new)

        def change(shard: Shard) -> Shard | None:
            return compaction.swapped(shard, rewrite, new, self._index.generation)

        done = self._swap(number, change)
        unused = rewrite.old if done else new
        files = [one.manifest.file for one in unused if one.manifest is not None]
        paths = [rewrite.shard.directory / name for name in files]
        with self._index.publishing:
            self._garbage.append(_Garbage(self._number, files=paths))
        self.compactions += done and bool(new)

    def _prepare(self, segments: tuple[OpenSegment, ...]) -> None:
        """Make what the first search of new segments would have to make."""
        if self._index.tensors is None:
            for one in segments:
                _ = one.segment.columns

    def _swap(self, number: int, change: Callable[[Shard], Shard | None]) -> bool:
        """Publish a change of a shard; False if what it changes is not there any more."""
        with self._index.publishing:
            now = self._index.snapshot
            after = change(now.shards[number])
            if after is None:
                return False
            draft = derived(now, {**now.shards, number: after}, self._index.threads)
            with self.publication(draft):
                if after.manifest is not now.shards[number].manifest:
                    self._unsure.add(number)
                    after.manifest.write(after.directory, now.manifest.checksum)
                    self._unsure.discard(number)
        return True

    def _left_behind(self, number: int) -> _Garbage:
        """Return rows and files that an earlier writer could not remove any more."""
        shard = self._index.shards[number]
        gone = [one.ordinals[~one.kept] for one in shard.segments]
        held = np.concatenate([np.empty(0, np.uint32), *gone]).astype(np.int64)
        rows = np.setdiff1d(self._log.stores[number].deleted(), held)
        named = {one.file for one in shard.manifest.segments}
        files = [
            path
            for path in shard.directory.glob("segment-*.safetensors*")
            if path.name not in named
        ]
        return _Garbage(0, {number: rows} if len(rows) else {}, files)

    def _remove(self) -> None:
        """Remove what no snapshot and no other process needs."""
        if self._unsure:
            return  # what the older manifest does not need the newer one may, if the disk has it
        with self._index.publishing:
            oldest = min(self._held.values())
            ready = [one for one in self._garbage if one.number <= oldest]
        if not any(one.rows or one.files for one in ready):
            return
        with exclusively(self._index.path) as alone:
            if not alone:
                return
            for one in ready:
                self._log.purge({shard: rows.tolist() for shard, rows in one.rows.items()})
                for path in one.files:
                    path.unlink(missing_ok=True)
                with self._index.publishing:
                    self._garbage.remove(one)


def _dropped(before: Shard, after: Shard) -> NDArray[np.uint32]:
    """Return the ordinals that a shard holds no more."""
    old = {id(one.segment): one.ordinals for one in before.segments}
    new = {id(one.segment): one.ordinals for one in after.segments}
    nothing = np.empty(0, np.uint32)
    gone = [ordinals for key, ordinals in old.items() if key not in new]
    come = [ordinals for key, ordinals in new.items() if key not in old]
    return np.setdiff1d(
        np.concatenate([nothing, *gone]), np.concatenate([nothing, *come]), assume_unique=True
    )


def _last_file(shard: Shard) -> int:
    """Return the highest number that a segment file of the shard has had."""
    names = [path.name for path in shard.directory.glob("segment-*.safetensors*")]
    names += [one.file for one in shard.manifest.segments]
    numbers = [int(name[8:14]) for name in names if name[8:14].isdigit()]
    return max(numbers, default=-1)
