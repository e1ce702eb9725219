"""Index: open, search, read documents. Exact, and safe to use from many threads at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...core.device import find_devices
from ...core.document import Document
from ...core.errors import InputError
from ...core.filters import Filter
from ...core.machine import cores
from ...core.vectors import MAX_SCORE, ImpactBatch, offsets
from ...kernels.score.types import Block, check_queries
from ...kernels.select.types import check_k
from ..storage.documents import DocumentStore
from ..storage.manifest import IndexManifest
from .cpu import CpuSearcher
from .filter import CACHE_BYTES, FilterCache, FilterMask
from .oracle import Oracle
from .searcher import Searcher, SearchResult, Selection, Wanted, always
from .snapshot import Shard
from .statistics import TermStatistics

if TYPE_CHECKING:
    from .device import DeviceSearcher
    from .placement import Placement

T = TypeVar("T")
Numbers = Sequence[int] | NDArray[np.integer[Any]]


class Index:
    """A finished index, opened for searching. Use as a context manager or ``close`` it.

    Attributes:
        path: its directory.
        manifest: what it is, with the manifests of the open shards.
        shards: the open shards by number.
        cpu: the searcher on the CPU, always there.
        tensors: the searcher on a torch device, see :meth:`to`; None where there is none.
        filters: what filters hold for, as far as it is kept.
    """

    def __init__(
        self,
        path: Path,
        manifest: IndexManifest,
        shards: Sequence[Shard],
        threads: int,
        filter_bytes: int = CACHE_BYTES,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.shards: Mapping[int, Shard] = {shard.number: shard for shard in shards}
        self.cpu = CpuSearcher(shards, manifest, threads)
        self.tensors: DeviceSearcher | None = None
        self.filters = FilterCache(filter_bytes)
        self._oracle = Oracle(shards, manifest.vocabulary_size)
        self._documents = {shard.shard: shard.documents for shard in manifest.shards}

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
        if threads is None:
            threads = cores()
        if threads < 1:
            raise InputError(f"threads: {threads} is too small; allowed 1 or more")
        devices = () if device is None else find_devices(device)
        manifest = IndexManifest.open(path, shards)
        opened: list[Shard] = []
        try:
            opened.extend(Shard.open(path, manifest, one) for one in manifest.shards)
        except BaseException:
            for shard in opened:
                shard.store.close()
            raise
        index = cls(path, manifest, opened, threads, filter_bytes)
        try:
            if devices == ("cpu",):
                index.cpu.prepare()
            elif devices:
                index.to(*devices)
        except BaseException:
            index.close()
            raise
        return index

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

        self.tensors = DeviceSearcher.load(placement, **options)

    def to(self, *devices: str, **options: Any) -> None:
        """Place the open shards on torch devices and search there from now on.

        Arguments and errors as for :meth:`place` and :meth:`load`.
        """
        self.load(self.place(*devices), **options)

    def close(self) -> None:
        """Release threads, device memory and document stores."""
        self.tensors = None
        self.cpu.close()
        self.filters.close()
        for shard in self.shards.values():
            shard.store.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def statistics(self) -> TermStatistics:
        """Document frequencies of the open shards."""
        return TermStatistics.of(list(self.shards.values()), self.manifest.vocabulary_size)

    @property
    def searcher(self) -> Searcher:
        """The searcher that :meth:`search` uses."""
        return self.cpu if self.tensors is None else self.tensors

    def mask(self, filter: Filter) -> FilterMask:
        """Return the documents that a filter holds for.

        Raises:
            InputError: a field that is not declared, a value of another type, too many of them.
        """
        return FilterMask(filter.resolve(self.manifest.fields), self.filters)

    def count(self, mask: Selection | None = None) -> int:
        """Return how many live documents of the open shards are inside the mask."""
        if mask is not None:
            mask.check(self._documents)
        allowed = (
            (one.manifest.documents, inside)
            for shard in self.shards.values()
            for one, inside in zip(shard.segments, shard.allowed(mask), strict=True)
        )
        return sum(int(np.count_nonzero(one)) if len(one) else count for count, one in allowed)

    def search(
        self, queries: ImpactBatch, k: int, mask: Selection | None = None, wanted: Wanted = always
    ) -> SearchResult:
        """Return the k best documents of each query.

        Args:
            queries: n vectors of at most 2,048 terms, impacts 1 to 4,095; each one's impacts times
                the index's ``max_impact`` sum to less than 2^31.
            k: 1 to 10,000; more than there are matches gives the matches.
            mask: the documents that may be hits, of every open shard; None for all live ones.
            wanted: asked between blocks of postings; see :meth:`.searcher.Searcher.search`.

        Raises:
            InputError: ``k``, a query or the mask out of its bounds.
        """
        self._check(queries, k, mask)
        return self.searcher.search(queries, k, mask, wanted)

    def oracle(
        self, queries: ImpactBatch, k: int, mask: Selection | Filter | None = None
    ) -> SearchResult:
        """Return what :meth:`search` must return, found exhaustively from the stored vectors.

        A filter is evaluated document by document on the stored metadata.
        """
        if isinstance(mask, Filter):
            mask = self._oracle.mask(mask.resolve(self.manifest.fields), self.manifest.fields)
        self._check(queries, k, mask)
        return self._oracle.search(queries, k, mask)

    def fetch(self, shards: Numbers, ordinals: Numbers) -> list[Document]:
        """Return the stored documents, in the order given.

        Raises:
            InputError: a shard or an ordinal that is not there.
        """
        return self._gather(shards, ordinals, DocumentStore.documents)

    def ids(self, shards: Numbers, ordinals: Numbers) -> list[str]:
        """Return the documents' own ids, in the order given, from memory.

        Raises:
            InputError: a shard or an ordinal that is not there.
        """
        numbers, places = np.asarray(shards), np.asarray(ordinals, dtype=np.int64)
        if len(numbers) and (numbers == numbers[0]).all():
            return self._shard(int(numbers[0]), places).ids.take(places)
        found: NDArray[np.object_] = np.empty(len(places), dtype=object)
        for number in np.unique(numbers).tolist():
            inside = numbers == number
            found[inside] = self._shard(number, places[inside]).ids.take(places[inside])
        return list(found)

    def _shard(self, number: int, ordinals: NDArray[np.int64]) -> Shard:
        """Return a shard that has all of the ordinals; raises InputError otherwise."""
        self._places([number, number], [ordinals.min(), ordinals.max()])
        return self.shards[number]

    def find(self, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return shard and ordinal of each id that a live document of the open shards has."""
        return {
            id: (number, ordinal)
            for number, shard in self.shards.items()
            for id, ordinal in shard.store.find(ids).items()
        }

    def _gather(
        self,
        shards: Numbers,
        ordinals: Numbers,
        read: Callable[[DocumentStore, Sequence[int]], list[T]],
    ) -> list[T]:
        """Return what ``read`` gives for each place, with one read per store."""
        places = self._places(shards, ordinals)
        wanted: dict[int, list[int]] = {}
        for shard, ordinal in places:
            wanted.setdefault(shard, []).append(ordinal)
        found = {
            (shard, ordinal): value
            for shard, group in wanted.items()
            for ordinal, value in zip(group, read(self.shards[shard].store, group), strict=True)
        }
        return [found[place] for place in places]

    def vectors(self, shards: Numbers, ordinals: Numbers) -> ImpactBatch:
        """Return the stored document vectors as impacts, in the order given.

        Raises:
            InputError: a shard or an ordinal that is not there.
        """
        rows = [
            self.shards[shard].store.vectors(ordinal, ordinal + 1)
            for shard, ordinal in self._places(shards, ordinals)
        ]
        return ImpactBatch.join(((row.terms, row.impacts) for row in rows), self.manifest.step)

    def blocks(self) -> Iterator[tuple[int, int, Block]]:
        """Yield every block in memory with its shard and its first document's ordinal."""
        for shard in self.shards.values():
            for one in shard.segments:
                for number in range(len(one.segment)):
                    first = one.manifest.first_ordinal + number * self.manifest.block_size
                    yield shard.number, first, one.segment.block(number)

    def _places(self, shards: Numbers, ordinals: Numbers) -> list[tuple[int, int]]:
        places = [
            (int(shard), int(ordinal)) for shard, ordinal in zip(shards, ordinals, strict=True)
        ]
        for shard, ordinal in places:
            if (documents := self._documents.get(shard)) is None:
                raise InputError(
                    f"shard is {shard}, this index has {self.manifest.shard_count} (from 0), "
                    f"of which are open: {', '.join(map(str, self._documents))}"
                )
            if not 0 <= ordinal < documents:
                raise InputError(
                    f"ordinal is {ordinal}, shard {shard} has {documents} documents (from 0)"
                )
        return places

    def _check(self, queries: ImpactBatch, k: int, mask: Selection | None) -> None:
        check_k(k)
        check_queries(queries, self.manifest.vocabulary_size)
        if mask is not None:
            mask.check(self._documents)
        largest = self.manifest.max_impact
        sums = np.diff(offsets(queries.impacts)[queries.indptr])
        if (over := np.flatnonzero(sums > MAX_SCORE // largest)).size:
            raise InputError(
                f"query {over[0]}: impacts sum to {sums[over[0]]}; with document impacts up to "
                f"{largest} scores could exceed int32; allowed up to {MAX_SCORE // largest}"
            )
