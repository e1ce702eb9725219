"""LocalBackend: answer searches in this process, in batches of whatever is queued.

Two workers, so that a vector search never waits for a text in the network: the encode worker runs
texts through the encoder's network (and tokenizes long texts), the search worker does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ..core.document import TextKind
from ..core.errors import OverloadedError
from ..core.results import Answer, Encoding, Explanation, Verification
from ..index import IndexManifest
from .backend import CollectionInfo, Query
from .batching import Batcher, BatchOptions
from .collection import Collection
from .deadline import Deadline
from .documents import LocalDocuments
from .observer import Observer
from .plan import Plan, SearchTask
from .policy import INLINE_HITS, INLINE_POSTINGS, INLINE_TEXT, LOOKUP_TEXT


class LocalBackend:
    """A :class:`~.backend.SearchBackend` on one collection.

    Args:
        collection: Closed with the backend.
        options: Sizes of the queue and of a batch, of each worker.
        observer: Receives durations and counts.

    Attributes:
        documents: Writes and reads the documents of the collection.
    """

    def __init__(self, collection: Collection, options: BatchOptions, observer: Observer) -> None:
        self.collection = collection
        self._plan = Plan(collection, observer)
        job = _Job(collection, self._plan)
        self._search_worker: Batcher[SearchTask, SearchTask] = Batcher(job, options, observer)
        self._encode_worker: Batcher[SearchTask, SearchTask] = Batcher(job, options, observer)
        self._single_pool = ThreadPoolExecutor(1, "csplade-single")
        self.documents = LocalDocuments(collection, self._encode_document, options.queue, observer)
        self._verifying: asyncio.Future[tuple[Answer, int]] | None = None

    def close(self) -> None:
        """Finish what is queued, end the threads, close the collection. Blocks."""
        self.documents.close()
        self._encode_worker.close()
        self._search_worker.close()
        self._single_pool.shutdown()
        self.collection.close()

    @property
    def info(self) -> CollectionInfo:
        """What is searched."""
        return self.collection.info

    async def search(self, query: Query, deadline: Deadline) -> Answer:
        """See :meth:`.backend.SearchBackend.search`."""
        if query.min_generation > self.collection.index.generation:
            await self.documents.reach(query.min_generation, deadline)
        return _answer(await self._search(query, deadline))

    async def search_batch(
        self, queries: Sequence[Query], deadline: Deadline
    ) -> list[Answer | Exception]:
        """See :meth:`.backend.SearchBackend.search_batch`."""
        generation = self.collection.index.generation
        if any(query.min_generation > generation for query in queries):
            return list(await asyncio.gather(*(self._outcome(one, deadline) for one in queries)))
        tasks = [SearchTask(query, deadline=deadline) for query in queries]
        outcomes = await self._worker(tasks).submit_each(tasks, deadline)
        return [one if isinstance(one, Exception) else _answer(one) for one in outcomes]

    async def encode(
        self,
        texts: Sequence[str],
        kind: TextKind,
        deadline: Deadline,
        *,
        attribution: bool = False,
    ) -> list[Encoding]:
        """See :meth:`.backend.SearchBackend.encode`."""
        self.info.require_encoder()
        tasks = [SearchTask(Query(text=text, k=0), kind, deadline) for text in texts]
        await self._run(tasks, deadline)
        if attribution:
            loop = asyncio.get_running_loop()
            async with deadline.enforced():
                return await loop.run_in_executor(self._single_pool, self._plan.attributed, tasks)
        return [self._plan.encoding(task) for task in tasks]

    async def explain(
        self, query: Query, ids: Sequence[str], deadline: Deadline
    ) -> tuple[Answer, tuple[Explanation, ...]]:
        """See :meth:`.backend.SearchBackend.explain`."""
        task = await self._search(replace(query, with_document=False), deadline)
        async with deadline.enforced():
            hits = await asyncio.to_thread(
                self._plan.explain, task, ids, with_document=query.with_document
            )
        answer = _answer(task)
        return answer, Explanation.place(ids, hits, answer)

    async def verify(self, query: Query, deadline: Deadline) -> Verification:
        """See :meth:`.backend.SearchBackend.verify`."""
        return Verification.compare(*await self.compare(query, deadline))

    async def compare(self, query: Query, deadline: Deadline) -> tuple[Answer, Answer, int]:
        """Return the answer, the reference's answer, and the nanoseconds that the reference took.

        Raises:
            OverloadedError: another comparison is in progress.
        """
        task = await self._search(query, deadline)
        if self._verifying is not None and not self._verifying.done():
            raise OverloadedError("Verify: 1 in progress, at most 1 is allowed; retry later", 1.0)
        loop = asyncio.get_running_loop()
        self._verifying = loop.run_in_executor(self._single_pool, self._plan.reference, task)
        async with deadline.enforced():
            # A caller that leaves does not stop the thread: its place stays taken until it ends.
            reference, nanoseconds = await asyncio.shield(self._verifying)
        return _answer(task), reference, nanoseconds

    async def _encode_document(self, text: str, deadline: Deadline) -> Encoding:
        (encoding,) = await self.encode([text], "document", deadline)
        return encoding

    async def _outcome(self, query: Query, deadline: Deadline) -> Answer | Exception:
        try:
            return await self.search(query, deadline)
        except Exception as error:
            return error

    async def _search(self, query: Query, deadline: Deadline) -> SearchTask:
        if query.text is not None:
            self.info.require_encoder()
        task = SearchTask(query, deadline=deadline)
        await self._run([task], deadline)
        return task

    async def _run(self, tasks: Sequence[SearchTask], deadline: Deadline) -> None:
        await self._worker(tasks).submit(tasks, deadline)

    def _worker(self, tasks: Sequence[SearchTask]) -> Batcher[SearchTask, SearchTask]:
        slow = any(self._needs_encode_worker(task) for task in tasks)
        return self._encode_worker if slow else self._search_worker

    def _needs_encode_worker(self, task: SearchTask) -> bool:
        text, encoder = task.query.text, self.collection.encoder
        if text is None or encoder is None:
            return False
        return not encoder.looks_up(task.kind) or len(text) > LOOKUP_TEXT


def _answer(task: SearchTask) -> Answer:
    assert task.answer is not None
    return task.answer


class _Job:
    """Runs the plan for the batcher."""

    def __init__(self, collection: Collection, plan: Plan) -> None:
        self._collection, self._plan = collection, plan
        self._judged: IndexManifest | None = None
        self._small = False

    def is_urgent(self, task: SearchTask) -> bool:
        return task.kind == "query"

    def characters(self, task: SearchTask) -> int:
        return len(task.query.text or "")

    def weigh(self, tasks: Sequence[SearchTask]) -> list[int]:
        self._plan.tokenize(tasks)
        return [0 if task.tokens is None else len(task.tokens.ids[0]) for task in tasks]

    def process(self, tasks: Sequence[SearchTask]) -> None:
        self._plan.run(tasks)

    def finish(self, task: SearchTask, waited: int) -> SearchTask:
        task.timings["queue"] = waited
        if task.query.k:
            task.answer = self._plan.answer(task)
        return task

    def finishes_inline(self, task: SearchTask) -> bool:
        query = task.query
        # Documents and vectors come from the store, which may be slow.
        stored = query.explain or query.with_document or query.with_vector
        return query.k <= INLINE_HITS and not stored

    def runs_inline(self, task: SearchTask) -> bool:
        query, encoder = task.query, self._collection.encoder
        now = self._collection.index.snapshot
        if now.manifest is not self._judged:  # which a write replaces
            self._judged = now.manifest
            self._small = now.tensors is None and now.manifest.postings <= INLINE_POSTINGS
        if not self._small or not query.k or not self.finishes_inline(task):
            return False
        if query.filter is not None:
            return False  # it may have to be evaluated
        return query.text is None or (
            encoder is not None and encoder.looks_up(task.kind) and len(query.text) <= INLINE_TEXT
        )
