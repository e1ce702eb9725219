"""Index: the current snapshot of an index directory. Safe to use from many threads at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.device import find_devices
from ...core.document import Document
from ...core.errors import InputError
from ...core.filters import Filter
from ...core.machine import cores
from ...core.results import StoredDocument
from ...core.vectors import ImpactBatch
from ...kernels.score.types import Block
from ..storage.files import lock_shared
from ..storage.manifest import INDEX_FILE, IndexManifest
from .cpu import CpuSearcher, ScoringThreads
from .filter import CACHE_BYTES, FilterCache, FilterMask
from .opening import open_shards
from .searcher import Searcher, SearchResult, Selection, Wanted, always
from .shard import Shard
from .snapshot import Numbers, Snapshot
from .statistics import TermStatistics

if TYPE_CHECKING:
    from .device import DeviceSearcher
    from .placement import Placement


class Index:
    """A finished index, opened for searching. Use as a context manager or ``close`` it.

    It holds one :class:`.snapshot.Snapshot`, and a writer replaces it by the next one. What belongs
    together, as ranking and fetching its hits, reads :attr:`snapshot` once and uses that; the
    methods here ask the current one.

    Attributes:
        path: its directory.
        threads: score on the CPU.
        filters: what filters hold for, as far as it is kept.
        publishing: held while something is made of the current snapshot and takes its place.
    """

    def __init__(
        self,
        path: Path,
        snapshot: Snapshot,
        threads: ScoringThreads,
        filters: FilterCache,
    ) -> None:
        self.path, self.threads, self.filters = path, threads, filters
        self.publishing = threading.Lock()
        self._snapshot = snapshot
        self._lock: int | None = None

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        threads: int | None = None,
        shards: Sequence[int] | None = None,
        device: str | None = "cpu",
        filter_bytes: int = CACHE_BYTES,
    ) -> Index:
        """Open an index: read its segments into memory and check every checksum.

        Every write that was acknowledged before is there; later ones are not. While the index is
        open, a writer in another process removes nothing that it reads.

        Args:
            path: the index directory.
            threads: threads of the CPU searcher; None for the cores this process may use.
            shards: numbers of the shards to open, None for all; files of other shards are not read.
            device: where to score: "cpu", "cuda", "cuda:1" ..., "auto" for a GPU where there is
                one, or several, over which the shards are spread: "cuda:0,cuda:1", "cuda:all". None
                leaves it to :meth:`to` and :meth:`load`.
            filter_bytes: bytes of evaluated filters to keep at most.

        Raises:
            CorruptError: no index, an unfinished build, another format version, or a torn or
                altered file.
            InputError: ``threads`` below 1, a shard that the index does not have, or no such
                device.
            UnavailableError: it does not fit into the device's memory.
        """
        path = Path(path)
        # A build, which ends with this file, holds the directory for itself.
        lock = lock_shared(path) if (path / INDEX_FILE).exists() else None
        try:
            index = cls.read(
                path, threads=threads, shards=shards, device=device, filter_bytes=filter_bytes
            )
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise
        index._lock = lock
        return index

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        threads: int | None = None,
        shards: Sequence[int] | None = None,
        device: str | None = "cpu",
        filter_bytes: int = CACHE_BYTES,
    ) -> Index:
        """Open an index without the lock of :meth:`open`, as its own writer does."""
        if threads is None:
            threads = cores()
        if threads < 1:
            raise InputError(f"threads: {threads} is too small; allowed 1 or more")
        devices = () if device is None else find_devices(device)
        manifest = IndexManifest.open(path, shards)
        opened, generation, max_impact = open_shards(path, manifest)
        pool, filters = ScoringThreads(threads), FilterCache(filter_bytes)
        snapshot = Snapshot(manifest, opened, generation, max_impact, pool, filters)
        index = cls(path, snapshot, pool, filters)
        try:
            if devices == ("cpu",):
                snapshot.cpu.prepare()
            elif devices:
                index.to(*devices)
        except BaseException:
            index.close()
            raise
        return index

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        return self._snapshot

    def publish(self, snapshot: Snapshot) -> None:
        """Let every later search use another snapshot; searches that run go on with theirs."""
        self._snapshot = snapshot

    def place(self, *devices: str) -> Placement:
        """Lay the open shards out for torch devices.

        Args:
            devices: "cuda", "cuda:1" ...; "cpu" is the plain torch scorer, slow, for tests.

        Raises:
            InputError: no such device.
        """
        from .placement import Placement  # imports torch, which the CPU searcher does not need

        places = [place for device in devices for place in find_devices(device)]
        return Placement.of(list(self.shards.values()), self.manifest, places)

    def load(self, placement: Placement, **options: Any) -> None:
        """Copy the open shards to the devices of a placement and search there from now on.

        The answers stay the same.

        Args:
            placement: of :meth:`place`.
            options: of :meth:`.device.DeviceSearcher.load`.

        Raises:
            UnavailableError: it does not fit into the devices' memory.
        """
        from .device import DeviceSearcher

        with self.publishing:
            now, tensors = self._snapshot, DeviceSearcher.load(placement, **options)
            shards = list(now.shards.values())
            if not placement.is_of(shards):  # a writer has gone on since
                tensors = tensors.following(shards, now.manifest)
            now.tensors = tensors

    def to(self, *devices: str, **options: Any) -> None:
        """Place the open shards on torch devices and search there from now on.

        Arguments and errors as for :meth:`place` and :meth:`load`.
        """
        self.load(self.place(*devices), **options)

    def close(self) -> None:
        """Release threads, device memory and document stores."""
        self._snapshot.tensors = None
        self.threads.close()
        self.filters.close()
        for shard in self.shards.values():
            shard.store.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def manifest(self) -> IndexManifest:
        """What the index is now, with the manifests of the open shards."""
        return self._snapshot.manifest

    @property
    def generation(self) -> int:
        """Generation of the current snapshot."""
        return self._snapshot.generation

    @property
    def shards(self) -> Mapping[int, Shard]:
        """The open shards of the current snapshot by number."""
        return self._snapshot.shards

    @property
    def cpu(self) -> CpuSearcher:
        """The searcher on the CPU of the current snapshot."""
        return self._snapshot.cpu

    @property
    def tensors(self) -> DeviceSearcher | None:
        """The searcher on a torch device of the current snapshot; None where there is none."""
        return self._snapshot.tensors

    @property
    def searcher(self) -> Searcher:
        """The searcher that :meth:`search` uses."""
        return self._snapshot.searcher

    @property
    def statistics(self) -> TermStatistics:
        """See :attr:`.snapshot.Snapshot.statistics`."""
        return self._snapshot.statistics

    def mask(self, filter: Filter) -> FilterMask:
        """See :meth:`.snapshot.Snapshot.mask`."""
        return self._snapshot.mask(filter)

    def search(
        self, queries: ImpactBatch, k: int, mask: Selection | None = None, wanted: Wanted = always
    ) -> SearchResult:
        """See :meth:`.snapshot.Snapshot.search`."""
        return self._snapshot.search(queries, k, mask, wanted)

    def oracle(
        self, queries: ImpactBatch, k: int, mask: Selection | Filter | None = None
    ) -> SearchResult:
        """See :meth:`.snapshot.Snapshot.oracle`."""
        return self._snapshot.oracle(queries, k, mask)

    def fetch(self, shards: Numbers, ordinals: Numbers) -> list[Document]:
        """See :meth:`.snapshot.Snapshot.fetch`."""
        return self._snapshot.fetch(shards, ordinals)

    def ids(self, shards: Numbers, ordinals: Numbers) -> list[str]:
        """See :meth:`.snapshot.Snapshot.ids`."""
        return self._snapshot.ids(shards, ordinals)

    def versions(self, shards: Numbers, ordinals: Numbers) -> list[int]:
        """See :meth:`.snapshot.Snapshot.versions`."""
        return self._snapshot.versions(shards, ordinals)

    def vectors(self, shards: Numbers, ordinals: Numbers) -> ImpactBatch:
        """See :meth:`.snapshot.Snapshot.vectors`."""
        return self._snapshot.vectors(shards, ordinals)

    def find(self, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """See :meth:`.snapshot.Snapshot.find`."""
        return self._snapshot.find(ids)

    def get(self, ids: Sequence[str], *, with_vector: bool = False) -> list[StoredDocument | None]:
        """See :meth:`.snapshot.Snapshot.get`."""
        return self._snapshot.get(ids, with_vector=with_vector)

    def scroll(
        self,
        after: int = -1,
        limit: int = 100,
        mask: Selection | None = None,
        *,
        with_vector: bool = False,
    ) -> list[StoredDocument]:
        """See :meth:`.snapshot.Snapshot.scroll`."""
        return self._snapshot.scroll(after, limit, mask, with_vector=with_vector)

    def count(self, mask: Selection | None = None) -> int:
        """See :meth:`.snapshot.Snapshot.count`."""
        return self._snapshot.count(mask)

    def blocks(self) -> Iterator[tuple[int, int, Block]]:
        """See :meth:`.snapshot.Snapshot.blocks`."""
        return self._snapshot.blocks()
