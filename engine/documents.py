"""LocalDocuments: write and read the documents of a collection in this process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TypeVar

import numpy as np

from ..core.errors import (
    CspladeError,
    DeadlineError,
    IncompatibleError,
    InputError,
    InternalError,
    OverloadedError,
    UnavailableError,
    VectorNeededError,
    VersionConflictError,
)
from ..core.filters import Filter
from ..core.results import Cut, Encoding, StoredDocument, WriteResult
from ..index import IndexWriter, Upsert
from .backend import CollectionInfo, Page, Written
from .collection import Collection
from .deadline import Deadline
from .observer import Observer
from .policy import (
    DELETED_TOGETHER,
    DOCUMENT_SHARE,
    ENCODED_TOGETHER,
    GENERATION_WAIT,
    OVERLOADED_SECONDS,
    WRITE_THREADS,
)

log = logging.getLogger(__name__)

R = TypeVar("R")
Encode = Callable[[str, Deadline], Awaitable[Encoding]]

# These end the whole write: the next document would meet them too.
NOT_OF_ONE_DOCUMENT = (DeadlineError, OverloadedError, UnavailableError)

NOTHING_CUT = Cut()


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A document ready to be committed, and what was cut from it; or why it cannot be."""

    upsert: Upsert
    cut: Cut = NOTHING_CUT
    failure: WriteResult | None = None


class LocalDocuments:
    """A :class:`~.backend.DocumentBackend` on one collection.

    Args:
        collection: Perhaps open for writing.
        encode: Encodes the text of a document, after the queries that wait.
        queue: Texts that may wait for the encoder. A part of them are with ``encode`` at once, so
            that queries find room in a queue of the same size there.
        observer: Receives counts and durations of commits.
    """

    def __init__(
        self, collection: Collection, encode: Encode, queue: int, observer: Observer
    ) -> None:
        self._collection, self._encode, self._observer = collection, encode, observer
        self._queue, self._texts = queue, 0
        self._places = asyncio.Semaphore(max(1, int(DOCUMENT_SHARE * queue)))
        self._pool = ThreadPoolExecutor(WRITE_THREADS, "csplade-write")
        self._committed = asyncio.Event()

    def close(self) -> None:
        """Finish the commits in progress. Blocks."""
        self._pool.shutdown()

    @property
    def info(self) -> CollectionInfo:
        """What the collection is now."""
        return self._collection.info

    async def upsert(self, items: Sequence[Upsert], deadline: Deadline) -> Written:
        """See :meth:`.backend.DocumentBackend.upsert`."""
        writer = self._require_writer()
        results: list[WriteResult] = []
        async with deadline.enforced():
            needed = await self._in_pool(_need_vectors, writer, items)
            together = min(sum(needed), ENCODED_TOGETHER)
            size = ENCODED_TOGETHER if together else max(1, len(items))
            with self._waiting(together):
                for first in range(0, len(items), size):
                    part = slice(first, first + size)
                    results += await self._upsert(writer, items[part], needed[part], deadline)
        return Written(tuple(results), self._collection.index.generation)

    async def delete(
        self, ids: Sequence[str], if_version: int | None, deadline: Deadline
    ) -> Written:
        """See :meth:`.backend.DocumentBackend.delete`."""
        writer = self._require_writer()
        async with deadline.enforced():
            results = await self._commit(lambda: writer.delete(ids, if_version))
        return Written(tuple(results), self._collection.index.generation)

    async def get(
        self, ids: Sequence[str], deadline: Deadline, *, vectors: bool = False
    ) -> tuple[list[StoredDocument | None], int]:
        """See :meth:`.backend.DocumentBackend.get`."""
        now = self._collection.index.snapshot
        async with deadline.enforced():
            found = await asyncio.to_thread(now.get, ids, with_vector=vectors)
        return found, now.generation

    async def delete_where(self, filter: Filter, deadline: Deadline) -> tuple[Written, int]:
        """See :meth:`.backend.DocumentBackend.delete_where`."""
        writer, index = self._require_writer(), self._collection.index
        now, selection, after = index.snapshot, index.mask(filter), -1
        failed: list[WriteResult] = []
        deleted = 0
        async with deadline.enforced():
            while page := await self._in_pool(now.scroll, after, DELETED_TOGETHER, selection):
                after = page[-1].arrival or 0
                # A document that has another version by now was written meanwhile.
                versions: dict[int, list[str]] = {}
                for one in page:
                    versions.setdefault(one.version, []).append(one.document.id)
                commits = [
                    self._commit(partial(writer.delete, ids, version))
                    for version, ids in versions.items()
                ]
                for result in chain.from_iterable(await asyncio.gather(*commits)):
                    deleted += result.status == "deleted"
                    if result.error and not isinstance(result.error, VersionConflictError):
                        failed.append(result)
        return Written(tuple(failed), index.generation), deleted

    async def scroll(
        self,
        after: int,
        limit: int,
        deadline: Deadline,
        *,
        filter: Filter | None = None,
        vectors: bool = False,
    ) -> Page:
        """See :meth:`.backend.DocumentBackend.scroll`."""
        index = self._collection.index
        now, selection = index.snapshot, None if filter is None else index.mask(filter)
        async with deadline.enforced():
            found = await asyncio.to_thread(
                now.scroll, after, limit, selection, with_vector=vectors
            )
        return Page(tuple(found), now.generation)

    async def count(self, deadline: Deadline, *, filter: Filter | None = None) -> tuple[int, int]:
        """See :meth:`.backend.DocumentBackend.count`."""
        index = self._collection.index
        now, selection = index.snapshot, None if filter is None else index.mask(filter)
        async with deadline.enforced():
            return await asyncio.to_thread(now.count, selection), now.generation

    async def reach(self, generation: int, deadline: Deadline) -> None:
        """Wait until searches see a generation.

        Raises:
            IncompatibleError: they do not within the part of the time that :mod:`.policy` allows,
                or nothing is written here.
        """
        index = self._collection.index
        longest, share = GENERATION_WAIT
        seconds = min(longest, share * deadline.remaining) if self._collection.writer else 0.0
        try:
            async with asyncio.timeout(seconds):
                while index.generation < generation:
                    await self._committed.wait()
        except TimeoutError:
            raise IncompatibleError(
                f"min_generation: {generation} is not there after {seconds:.1f} s; the newest is "
                f"{index.generation}; ask for that one, or later"
            ) from None

    @contextmanager
    def _waiting(self, texts: int) -> Iterator[None]:
        """Count texts that wait for the encoder while the block runs.

        Raises:
            OverloadedError: too many wait already.
        """
        waiting = self._texts + texts
        if texts and self._texts and waiting > self._queue:
            raise OverloadedError(
                f"batching.queue: {self._texts} documents wait for the encoder and {texts} more "
                f"exceed {self._queue}; retry after {OVERLOADED_SECONDS} s",
                OVERLOADED_SECONDS,
            )
        self._texts = waiting
        try:
            yield
        finally:
            self._texts -= texts

    def _require_writer(self) -> IndexWriter:
        writer = self._collection.writer
        if writer is None:
            raise IncompatibleError(
                "writable: false, the index is open for reading only; start the service with "
                "--writable"
            )
        return writer

    async def _upsert(
        self,
        writer: IndexWriter,
        items: Sequence[Upsert],
        needed: Sequence[bool],
        deadline: Deadline,
    ) -> list[WriteResult]:
        """Encode the documents that need a vector, then commit all that are valid together."""
        prepared = [_Prepared(item) for item in items]
        bare = [place for place, needs in enumerate(needed) if needs]
        encoded = await self._prepare_all([items[place] for place in bare], deadline)
        for place, one in zip(bare, encoded, strict=True):
            prepared[place] = one
        ready = [one.upsert for one in prepared if one.failure is None]
        written = iter(await self._commit(lambda: writer.upsert(ready)) if ready else ())
        results = [
            _with_cut(next(written), one.cut) if one.failure is None else one.failure
            for one in prepared
        ]
        # A stored text changed after it was compared, by another write or an item before.
        late = [
            place
            for place, one in enumerate(results)
            if isinstance(one.error, VectorNeededError) and not needed[place]
        ]
        if late:
            again = [items[place] for place in late]
            found = await self._upsert(writer, again, [True] * len(late), deadline)
            for place, result in zip(late, found, strict=True):
                results[place] = result
        return results

    async def _prepare_all(self, items: Sequence[Upsert], deadline: Deadline) -> list[_Prepared]:
        """Return the documents with vectors of their texts."""
        tasks = [asyncio.ensure_future(self._prepare(item, deadline)) for item in items]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _prepare(self, item: Upsert, deadline: Deadline) -> _Prepared:
        text = item.document.full_text
        try:
            if self._collection.encoder is None:
                raise IncompatibleError(
                    "vector: not set, and no encoder is loaded; send a vector, or start the "
                    "service with a model"
                )
            if not text.strip():
                raise InputError("document: it has neither a vector nor a text; send one of them")
            async with self._places:
                encoding = await self._encode(text, deadline)
        except NOT_OF_ONE_DOCUMENT:
            raise
        except CspladeError as error:
            return _failed(item, error)
        except Exception as error:
            log.error("encoding a document failed", exc_info=error)
            return _failed(item, InternalError("the document could not be encoded"))
        vector = np.asarray(encoding.terms), np.asarray(encoding.weights)
        return _Prepared(replace(item, vector=vector), encoding.cut)

    async def _commit(self, write: Callable[[], list[WriteResult]]) -> list[WriteResult]:
        loop = asyncio.get_running_loop()

        def commit() -> list[WriteResult]:
            started = time.perf_counter()
            results = write()
            # Also if the caller has left meanwhile.
            loop.call_soon_threadsafe(self._record, results, time.perf_counter() - started)
            return results

        return await self._in_pool(commit)

    def _record(self, results: Sequence[WriteResult], seconds: float) -> None:
        self._observer.committed(results, seconds, self._collection.index.manifest)
        self._committed.set()
        self._committed = asyncio.Event()

    async def _in_pool(self, function: Callable[..., R], *args: object) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)


def _need_vectors(writer: IndexWriter, items: Sequence[Upsert]) -> list[bool]:
    """Return whether each document needs a vector and has none."""
    bare = [item.document for item in items if item.vector is None]
    needs = iter(writer.needs_vector(bare) if bare else ())
    return [item.vector is None and next(needs) for item in items]


def _failed(item: Upsert, error: CspladeError) -> _Prepared:
    return _Prepared(item, failure=WriteResult(item.document.id, "failed", 0, error))


def _with_cut(result: WriteResult, cut: Cut) -> WriteResult:
    return replace(result, cut=replace(cut, impacts=result.cut.impacts)) if cut else result
